#include "sequences.hpp"

#include "catalog.hpp"
#include "log_end.hpp"
#include "pg/spi.hpp"

namespace pgjobs::sequences {

static constinit pg::Statement select_last{
    "SELECT COALESCE(pg_catalog.pg_sequence_last_value($1), 0)", {REGCLASSOID}, nullptr};
static constinit pg::Statement set_last{
    "SELECT pg_catalog.setval($1, $2)", {REGCLASSOID, INT8OID}, nullptr};

static bool is_behind(Oid sequence, int64 used) {
    pg::run(&select_last, pg::oid_value(sequence));
    return pg::int64_at(0, 1) < used;
}

static void bring_to(Oid sequence, int64 used) {
    if (!OidIsValid(sequence) || !is_behind(sequence, used))
        return;
    LockRelationOid(sequence, ShareRowExclusiveLock); // nobody takes a value meanwhile
    if (is_behind(sequence, used))
        pg::run(&set_last, pg::oid_value(sequence), pg::value(used));
}

// The last id of each table.
static constinit pg::Statement select_used{
    "SELECT 'job_id_seq', GREATEST((SELECT pg_catalog.max(j.id) FROM pgjobs.job j),"
    " (SELECT pg_catalog.max(h.id) FROM pgjobs.history h)) UNION ALL "
    "SELECT 'queue_id_seq', pg_catalog.max(q.id)::pg_catalog.int8 FROM pgjobs.queue q UNION ALL "
    "SELECT 'topic_id_seq', pg_catalog.max(t.id)::pg_catalog.int8 FROM pgjobs.topic t UNION ALL "
    "SELECT 'segment_id_seq', pg_catalog.max(s.id)::pg_catalog.int8 FROM pgjobs.segment s UNION "
    "ALL "
    "SELECT 'subscription_id_seq', pg_catalog.max(s.id)::pg_catalog.int8 FROM pgjobs.subscription "
    "s UNION ALL "
    "SELECT 'feed_id_seq', pg_catalog.max(f.id)::pg_catalog.int8 FROM pgjobs.feed f",
    {},
    nullptr};
static constinit pg::Statement select_topics{"SELECT t.id FROM pgjobs.topic t", {}, nullptr};

struct Used {
    Oid sequence;
    int64 last;
};

// Before another statement replaces the result.
static Used *read_used(uint64 count) {
    auto *used = static_cast<Used *>(palloc(sizeof(Used) * (count + 1)));
    for (uint64 i = 0; i < count; i++)
        used[i] = {get_relname_relid(TextDatumGetCString(pg::datum_at(i, 1)), relations()->schema),
                   pg::is_null(i, 2) ? 0 : pg::int64_at(i, 2)};
    return used;
}

static int32 *read_topics(uint64 count) {
    auto *topics = static_cast<int32 *>(palloc(sizeof(int32) * (count + 1)));
    for (uint64 i = 0; i < count; i++)
        topics[i] = pg::int32_at(i, 1);
    return topics;
}

// What the sequence of a topic gives out is the first of a block.
static void catch_up_positions(int32 id) {
    char name[NAMEDATALEN];
    log_end::sequence_name(id, name);
    const Topic *topic = find_topic(id);
    if (topic != nullptr && log_end::has_place(topic))
        bring_to(get_relname_relid(name, relations()->schema),
                 log_end::next_position(topic) - log_end::block);
}

void catch_up() {
    uint64 count = pg::run(&select_used);
    Used *used = read_used(count);
    for (uint64 i = 0; i < count; i++)
        bring_to(used[i].sequence, used[i].last);
    count = pg::run(&select_topics);
    int32 *topics = read_topics(count);
    for (uint64 i = 0; i < count; i++)
        catch_up_positions(topics[i]);
}

} // namespace pgjobs::sequences
