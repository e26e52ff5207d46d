// Claiming: ready jobs of a queue become the caller's.
#pragma once

#include "catalog.hpp"

namespace pgjobs::claim {

constexpr int64 most_jobs = 10000;     // of one claim
constexpr int64 shortest_lease = 1000; // microseconds

// What a caller wants. The second half is filled in on the way.
struct Request {
    const Queue *queue;
    int16 stage; // 0: any, the latest first
    int64 max_jobs;
    int64 lease; // microseconds; 0: a session lease without an end
    bool hold;
    const char *worker_name; // nullptr: application_name
    FunctionCallInfo fcinfo;
    Datum worker;
    Datum queue_name;
    Datum *stage_names;
};

// Reads and checks the queue's name, argument 0, and from `first` on: max_jobs, stage, lease, hold,
// worker. Makes the result of `fcinfo` a set of claimed_job.
Request read(FunctionCallInfo fcinfo, int first, const char *verb);

// Takes the jobs and returns them as rows of `fcinfo`.
void run(const Request &request);

} // namespace pgjobs::claim
