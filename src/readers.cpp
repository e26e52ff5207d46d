#include "readers.hpp"

#include "pg/spi.hpp"

namespace pgjobs::readers {

static constinit pg::Statement select_readers{
    "SELECT r.name, r.queue, r.topic_id, r.position FROM ("
    "SELECT s.name, false AS queue, s.topic_id, s.position FROM pgjobs.subscription s UNION ALL "
    "SELECT q.name, true, f.topic_id, f.position FROM pgjobs.feed f "
    "JOIN pgjobs.queue q ON q.id = f.queue_id) r ORDER BY r.queue, r.name, r.topic_id",
    {},
    nullptr};

struct Row {
    const char *name;
    bool queue;
    int32 topic;
    int64 position;
};

Readers all() {
    MemoryContext caller = CurrentMemoryContext;
    Row *rows = nullptr;
    uint64 count = 0;
    pg::as_owner([&] {
        count = pg::run(&select_readers);
        pg::in_context(caller, [&] {
            rows = static_cast<Row *>(palloc(sizeof(Row) * (count + 1)));
            for (uint64 i = 0; i < count; i++)
                rows[i] = {TextDatumGetCString(pg::datum_at(i, 1)), pg::bool_at(i, 2),
                           pg::int32_at(i, 3), pg::int64_at(i, 4)};
        });
    });
    Readers readers = {static_cast<Reader *>(palloc(sizeof(Reader) * (count + 1))), 0};
    for (uint64 i = 0; i < count; i++) {
        const Topic *topic = find_topic(rows[i].topic);
        if (topic != nullptr && has_right(topic, monitor | subscribe | own))
            readers.list[readers.count++] = {rows[i].name, rows[i].queue, topic, rows[i].position};
    }
    return readers;
}

} // namespace pgjobs::readers
