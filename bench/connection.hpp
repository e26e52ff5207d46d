// A client's connection: libpq in pipeline mode, with a Sync behind each statement, so that each is
// a transaction of its own and the next may be sent before the answer to the last is there.
#pragma once

#include <libpq-fe.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

struct SqlError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Result {
public:
    explicit Result(PGresult *result) : result_(result, PQclear) {}

    int rows() const { return PQntuples(result_.get()); }
    const char *text(int row, int column) const { return PQgetvalue(result_.get(), row, column); }
    bool null(int row, int column) const { return PQgetisnull(result_.get(), row, column); }
    const char *name(int column) const { return PQfname(result_.get(), column); }
    int number(int row, int column) const { return std::atoi(text(row, column)); }
    int affected() const { return std::atoi(PQcmdTuples(result_.get())); } // by INSERT, DELETE, ...
    ExecStatusType status() const { return PQresultStatus(result_.get()); }
    std::string error() const { return PQresultErrorMessage(result_.get()); }

private:
    std::unique_ptr<PGresult, decltype(&PQclear)> result_;
};

class Connection {
public:
    Connection() : connection_(PQconnectdb(""), PQfinish) { // the environment says where to
        if (PQstatus(connection_.get()) != CONNECTION_OK)
            throw SqlError(PQerrorMessage(connection_.get()));
    }

    PGconn *raw() const { return connection_.get(); }

    // Before the first send() only.
    Result execute(const std::string &sql) {
        return checked(Result(PQexec(connection_.get(), sql.c_str())));
    }
    void prepare(const char *name, const std::string &sql) {
        checked(Result(PQprepare(connection_.get(), name, sql.c_str(), 0, nullptr)));
    }

    void send(const char *name, const std::vector<const char *> &arguments = {}) {
        if (PQpipelineStatus(connection_.get()) == PQ_PIPELINE_OFF)
            PQenterPipelineMode(connection_.get());
        if (!PQsendQueryPrepared(connection_.get(), name, static_cast<int>(arguments.size()),
                                 arguments.data(), nullptr, nullptr, 0) ||
            !PQpipelineSync(connection_.get()))
            throw SqlError(PQerrorMessage(connection_.get()));
    }

    // The answer to the oldest statement sent.
    Result receive() {
        Result result(PQgetResult(connection_.get()));
        while (PGresult *rest = PQgetResult(connection_.get()))
            PQclear(rest);
        Result sync(PQgetResult(connection_.get()));
        if (result.status() == PGRES_COMMAND_OK || result.status() == PGRES_TUPLES_OK)
            if (sync.status() != PGRES_PIPELINE_SYNC)
                throw SqlError("an answer without its Sync");
        return checked(std::move(result));
    }

    Result call(const char *name, const std::vector<const char *> &arguments = {}) {
        send(name, arguments);
        return receive();
    }

private:
    Result checked(Result result) {
        if (result.status() != PGRES_COMMAND_OK && result.status() != PGRES_TUPLES_OK)
            throw SqlError(result.error().empty() ? PQerrorMessage(connection_.get())
                                                  : result.error());
        return result;
    }

    std::unique_ptr<PGconn, decltype(&PQfinish)> connection_;
};

} // namespace bench
