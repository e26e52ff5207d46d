#include "lookup.hpp"

#include "pg/spi.hpp"

namespace pgjobs {

static constinit pg::Statement select_queue_of{
    "SELECT j.queue_id FROM pgjobs.job j WHERE j.id = $1 UNION ALL "
    "SELECT h.queue_id FROM pgjobs.history h WHERE h.id = $1 AND h.payload IS NOT NULL",
    {INT8OID},
    nullptr};

const Queue *visible_queue_of(int64 job, int32 rights) {
    int32 number = pg::as_owner([&]() -> int32 {
        return pg::run(&select_queue_of, pg::value(job)) == 0 ? 0 : pg::int32_at(0, 1);
    });
    const Queue *queue = number != 0 ? find_queue(number) : nullptr;
    return queue != nullptr && has_right(queue, rights) ? queue : nullptr;
}

void no_such_job(int64 job) {
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("job " INT64_FORMAT " does not exist", job),
            errhint("It may have left the history, or be in a queue that you may not see."));
    pg_unreachable();
}

} // namespace pgjobs
