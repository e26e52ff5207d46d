// The queues that are compared, each by the statements that its clients send.
#pragma once

#include "connection.hpp"

#include <memory>
#include <string>
#include <vector>

namespace bench {

struct Jobs { // claimed ones
    std::vector<std::string> ids, tokens;

    int size() const { return static_cast<int>(ids.size()); }
    bool empty() const { return ids.empty(); }
};

// What a system calls an operation; send_... sends one statement, what reads its answer has no
// verb.
class System {
public:
    virtual ~System() = default;

    virtual void prepare_producer(Connection &connection) = 0;
    virtual void send_enqueue(Connection &connection, int jobs, const char *priority) = 0;
    virtual int enqueued(const Result &result) = 0; // jobs

    virtual void prepare_worker(Connection &connection) = 0;
    virtual void send_claim(Connection &connection, int max) = 0;
    virtual void send_complete(Connection &connection, const Jobs &jobs) = 0;
    virtual void send_fail(Connection &connection, const Jobs &jobs) = 0; // again in a second
    virtual int finished(const Result &result) = 0; // jobs that were completed or failed
    virtual void end_work(Connection &) {}          // a worker goes home

    // Completes jobs (none are allowed) and claims the next, where a system can do so at once.
    virtual bool combines() const { return false; }
    virtual void send_complete_and_claim(Connection &, const Jobs &, int) {}

    // How a worker without work learns of some: a statement that sleeps in the server, or LISTEN.
    virtual bool waits() const { return false; }
    virtual const char *channel() const { return nullptr; }

    // A log: it has one consumer, and what was consumed stays.
    virtual bool is_log() const { return false; }
    // It is not claimed from: its consumer takes batch after batch, as the ticker cuts them.
    virtual bool has_ticker() const { return false; }

    virtual std::string count_open() const = 0; // a query: jobs that are not finished; a log: all
};

// name: pgjobs, pgjobs-combined, pgjobs-topic, textbook, textbook-kept, bare, pgq; nullptr for any
// other.
std::unique_ptr<System> make_system(const std::string &name);

// A statement's answer as claimed jobs: the columns id and, where there is one, token come first.
Jobs claimed(const Result &result);

} // namespace bench
