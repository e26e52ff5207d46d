#include "systems.hpp"

#include <map>
#include <stdexcept>

namespace bench {

// About a hundred bytes of JSON, the same for all.
static const std::string payload =
    R"({"to": "ada@example.org", "template": "welcome", "retries": 3, "note": "about a hundred bytes"})";

// '{"{\"to\": ...}", ...}': an array as text, made once for each length.
static const char *payloads(int count) {
    thread_local std::map<int, std::string> made;
    std::string &array = made[count];
    if (array.empty()) {
        std::string element(1, '"');
        for (char c : payload) {
            if (c == '"' || c == '\\')
                element += '\\';
            element += c;
        }
        element += '"';
        array.assign(1, '{');
        for (int i = 0; i < count; i++)
            array += (i ? "," : "") + element;
        array += '}';
    }
    return array.c_str();
}

static std::string joined(const std::vector<std::string> &numbers) {
    std::string array(1, '{');
    for (const std::string &number : numbers)
        (array += array.size() > 1 ? "," : "") += number;
    return array += '}';
}

// One row for one job, or a row with their number in a column of that name.
static int one_or_count(const Result &result, const char *count) {
    return std::string(result.name(0)) == count ? result.number(0, 0) : result.rows();
}

Jobs claimed(const Result &result) {
    Jobs jobs;
    for (int row = 0; row < result.rows(); row++) {
        jobs.ids.emplace_back(result.text(row, 0));
        jobs.tokens.emplace_back(result.text(row, 1));
    }
    return jobs;
}

namespace {

class Pgjobs : public System {
public:
    explicit Pgjobs(bool combines) : combines_(combines) {}

    void prepare_producer(Connection &connection) override {
        connection.prepare("enqueue", "SELECT pgjobs.enqueue('q', $1::jsonb)");
        connection.prepare("enqueue_priority",
                           "SELECT pgjobs.enqueue('q', $1::jsonb, priority => $2::bigint)");
        connection.prepare("enqueue_many",
                           "SELECT cardinality(pgjobs.enqueue_many('q', $1::jsonb[]))");
    }
    void send_enqueue(Connection &connection, int jobs, const char *priority) override {
        if (jobs > 1)
            connection.send("enqueue_many", {payloads(jobs)});
        else if (priority)
            connection.send("enqueue_priority", {payload.c_str(), priority});
        else
            connection.send("enqueue", {payload.c_str()});
    }
    int enqueued(const Result &result) override { return one_or_count(result, "cardinality"); }

    void prepare_worker(Connection &connection) override {
        connection.prepare("claim", "SELECT id, token, attempt, payload"
                                    " FROM pgjobs.claim('q', $1::bigint)");
        connection.prepare("complete", "SELECT 1 WHERE"
                                       " pgjobs.complete($1::bigint, $2::bigint) = 'completed'");
        connection.prepare("complete_many", "SELECT cardinality(pgjobs.complete_many("
                                            "$1::bigint[], $2::bigint[]))");
        connection.prepare("fail", "SELECT 1 WHERE pgjobs.fail($1::bigint, $2::bigint, 'bad luck',"
                                   " retry_in => '1 second') = 'scheduled'");
        connection.prepare("wait", "CALL pgjobs.wait('q')");
        if (combines_)
            connection.prepare("complete_and_claim",
                               "SELECT id, token, attempt, payload FROM pgjobs.complete_and_claim("
                               "'q', $1::bigint[], $2::bigint[], max_jobs => $3::bigint)");
    }
    void send_claim(Connection &connection, int max) override {
        connection.send("claim", {std::to_string(max).c_str()});
    }
    void send_complete(Connection &connection, const Jobs &jobs) override {
        if (jobs.size() == 1)
            connection.send("complete", {jobs.ids[0].c_str(), jobs.tokens[0].c_str()});
        else
            connection.send("complete_many",
                            {joined(jobs.ids).c_str(), joined(jobs.tokens).c_str()});
    }
    void send_fail(Connection &connection, const Jobs &jobs) override {
        connection.send("fail", {jobs.ids.at(0).c_str(), jobs.tokens.at(0).c_str()});
    }
    int finished(const Result &result) override { return result.rows() ? result.number(0, 0) : 0; }

    bool combines() const override { return combines_; }
    void send_complete_and_claim(Connection &connection, const Jobs &jobs, int max) override {
        connection.send(
            "complete_and_claim",
            {joined(jobs.ids).c_str(), joined(jobs.tokens).c_str(), std::to_string(max).c_str()});
    }

    bool waits() const override { return true; }
    const char *channel() const override { return "pgjobs_q"; }
    std::string count_open() const override { return "SELECT count(*) FROM pgjobs.job"; }

private:
    const bool combines_;
};

// A topic with one subscription, whose reader goes on under his lease and acknowledges ten batches
// at once; PgQ's consumer acknowledges a whole tick.
class Topic : public System {
public:
    void prepare_producer(Connection &connection) override {
        connection.prepare("enqueue", "SELECT pgjobs.publish('t', $1::jsonb)");
        connection.prepare("enqueue_many",
                           "SELECT cardinality(pgjobs.publish_many('t', $1::jsonb[]))");
    }
    void send_enqueue(Connection &connection, int jobs, const char *) override {
        if (jobs > 1)
            connection.send("enqueue_many", {payloads(jobs)});
        else
            connection.send("enqueue", {payload.c_str()});
    }
    int enqueued(const Result &result) override { return one_or_count(result, "cardinality"); }

    void prepare_worker(Connection &connection) override {
        connection.prepare("claim", "SELECT position, token, key, payload"
                                    " FROM pgjobs.receive('s', $1::bigint, token => $2::bigint)");
        connection.prepare("complete", "WITH done AS MATERIALIZED (SELECT pgjobs.ack('s',"
                                       " $1::bigint, $2::bigint)) SELECT $3::integer FROM done");
        connection.prepare("later", "SELECT $1::integer");
        connection.prepare("wait", "CALL pgjobs.wait_message('s', '30 seconds')");
    }
    void send_claim(Connection &connection, int max) override {
        connection.send("claim",
                        {std::to_string(max).c_str(), token_.empty() ? nullptr : token_.c_str()});
    }
    void send_complete(Connection &connection, const Jobs &jobs) override {
        token_ = jobs.tokens.back();
        last_ = jobs.ids.back();
        unacknowledged_++;
        std::string count = std::to_string(jobs.size());
        if (jobs.size() > 1 && unacknowledged_ < 10) {
            connection.send("later", {count.c_str()});
            return;
        }
        connection.send("complete", {token_.c_str(), last_.c_str(), count.c_str()});
        unacknowledged_ = 0;
    }
    void end_work(Connection &connection) override {
        if (unacknowledged_ > 0)
            connection.call("complete", {token_.c_str(), last_.c_str(), "1"});
    }
    void send_fail(Connection &, const Jobs &) override {
        throw std::runtime_error("messages do not fail");
    }
    int finished(const Result &result) override { return result.number(0, 0); }

    bool waits() const override { return true; }
    bool is_log() const override { return true; }
    std::string count_open() const override { return "SELECT count(*) FROM pgjobs.log"; }

private: // of the one reader
    std::string token_, last_;
    int unacknowledged_ = 0;
};

// A table, SKIP LOCKED, UPDATE, DELETE: as the books have it, and as quick as it gets.
class Textbook : public System {
public:
    explicit Textbook(bool keeps) : keeps_(keeps) {}

    void prepare_producer(Connection &connection) override {
        connection.prepare("enqueue", "INSERT INTO textbook (payload) VALUES ($1::jsonb)");
        connection.prepare("enqueue_priority", "INSERT INTO textbook (payload, priority)"
                                               " VALUES ($1::jsonb, $2::integer)");
        connection.prepare("enqueue_many", "INSERT INTO textbook (payload)"
                                           " SELECT p FROM unnest($1::jsonb[]) p");
    }
    void send_enqueue(Connection &connection, int jobs, const char *priority) override {
        if (jobs > 1)
            connection.send("enqueue_many", {payloads(jobs)});
        else if (priority)
            connection.send("enqueue_priority", {payload.c_str(), priority});
        else
            connection.send("enqueue", {payload.c_str()});
    }
    int enqueued(const Result &result) override { return result.affected(); }

    void prepare_worker(Connection &connection) override {
        connection.prepare(
            "claim", "UPDATE textbook SET state = 'running', attempt = attempt + 1,"
                     " locked_at = clock_timestamp()"
                     " WHERE id = ANY (ARRAY(SELECT id FROM textbook"
                     " WHERE state = 'ready' AND run_at <= now() ORDER BY priority, run_at, id"
                     " LIMIT $1::bigint FOR UPDATE SKIP LOCKED))"
                     " RETURNING id, 0, attempt, payload");
        std::string finish = "DELETE FROM textbook WHERE id = ANY ($1::bigint[])";
        std::string finish_one = "DELETE FROM textbook WHERE id = $1::bigint";
        if (keeps_) {
            auto kept = [](const std::string &sql) {
                return "WITH gone AS (" + sql +
                       " RETURNING *) INSERT INTO textbook_history"
                       " SELECT id, priority, run_at, attempt, locked_at, payload, now() FROM gone";
            };
            finish = kept(finish);
            finish_one = kept(finish_one);
        }
        connection.prepare("complete", finish_one);
        connection.prepare("complete_many", finish);
        connection.prepare("fail", "UPDATE textbook SET state = 'ready',"
                                   " run_at = now() + interval '1 second' WHERE id = $1::bigint");
    }
    void send_claim(Connection &connection, int max) override {
        connection.send("claim", {std::to_string(max).c_str()});
    }
    void send_complete(Connection &connection, const Jobs &jobs) override {
        if (jobs.size() == 1)
            connection.send("complete", {jobs.ids[0].c_str()});
        else
            connection.send("complete_many", {joined(jobs.ids).c_str()});
    }
    void send_fail(Connection &connection, const Jobs &jobs) override {
        connection.send("fail", {jobs.ids.at(0).c_str()});
    }
    int finished(const Result &result) override { return result.affected(); }

    const char *channel() const override { return "textbook"; }
    std::string count_open() const override { return "SELECT count(*) FROM textbook"; }

private:
    const bool keeps_;
};

// A table with the columns and indexes of pgjobs.job and nothing else: what an INSERT costs.
class Bare : public Textbook {
public:
    Bare() : Textbook(false) {}

    void prepare_producer(Connection &connection) override {
        const std::string insert =
            "INSERT INTO bare (id, due_at, enqueued_at, queue_id, attempt, max_attempts, rev,"
            " stage, priority, waiting, payload)"
            " SELECT nextval('bare_id'), now(), now(), 1, 0, 25, 1, 1, 0, 0, ";
        connection.prepare("enqueue", insert + "$1::jsonb");
        connection.prepare("enqueue_many", insert + "p FROM unnest($1::jsonb[]) p");
    }
    std::string count_open() const override { return "SELECT count(*) FROM bare"; }
};

// PgQ: an append-only log with one consumer.
class Pgq : public Textbook {
public:
    Pgq() : Textbook(false) {}

    void prepare_producer(Connection &connection) override {
        connection.prepare("enqueue", "SELECT pgq.insert_event('q', 'job', $1)");
        connection.prepare("enqueue_many", "SELECT count(pgq.insert_event('q', 'job', p))"
                                           " FROM unnest($1::text[]) p");
    }
    int enqueued(const Result &result) override { return one_or_count(result, "count"); }

    void prepare_worker(Connection &connection) override {
        connection.prepare("next", "SELECT pgq.next_batch('q', 'bench')");
        connection.prepare("events", "SELECT ev_id, ev_type, ev_data"
                                     " FROM pgq.get_batch_events($1::bigint)");
        connection.prepare("finish", "SELECT pgq.finish_batch($1::bigint)");
        connection.prepare("tick", "SELECT pgq.ticker('q')");
    }

    const char *channel() const override { return nullptr; }
    bool is_log() const override { return true; }
    bool has_ticker() const override { return true; }
    std::string count_open() const override { return "SELECT count(*) FROM pgq.event_template"; }
};

} // namespace

std::unique_ptr<System> make_system(const std::string &name) {
    if (name == "pgjobs" || name == "pgjobs-combined")
        return std::make_unique<Pgjobs>(name != "pgjobs");
    if (name == "pgjobs-topic")
        return std::make_unique<Topic>();
    if (name == "textbook" || name == "textbook-kept")
        return std::make_unique<Textbook>(name != "textbook");
    if (name == "bare")
        return std::make_unique<Bare>();
    if (name == "pgq")
        return std::make_unique<Pgq>();
    return nullptr;
}

} // namespace bench
