// Drives one queue with producers and workers, each a thread with a connection, and tells in one
// line of JSON how it went. bench/run starts it; the environment (PGHOST, PGOPTIONS, ...) says
// where.
//
//   load --system NAME [--mode life|latency|waiters] [--producers N] [--workers N] [--batch N]
//        [--seconds N] [--warmup N] [--window N] [--pace N] [--prefilled N] [--left N]
//        [--fail-percent N] [--priorities] [--in-flight N] [--listeners N] [--no-pipeline]
//        [--no-drain]
//
// life: producers add batches, workers claim and complete them. With no producers, the workers
// drain
//     what is there (--prefilled); with no workers, the jobs stay. --pace: jobs per second of all
//     producers, else as fast as it goes. --window: jobs under way at most. --left: jobs that are
//     there before and shall be there after. --in-flight: enqueues that a producer has sent and not
//     heard of, at most. --no-drain: at the end the workers leave what they have not claimed.
// latency: one worker is idle, a job comes, how long until the worker has it?
// waiters: that many workers are idle, for all the seconds.
//
// When all is prepared it prints "ready" and waits for a line, at the end it prints the JSON and
// waits for the end of its input, so that the caller can measure the server between the two.
#include "gate.hpp"
#include "samples.hpp"
#include "systems.hpp"

#include <poll.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <random>
#include <thread>

namespace bench {

struct Options {
    std::string system = "pgjobs", mode = "life";
    int producers = 1, workers = 1, batch = 1, in_flight = 1, listeners = 0;
    double seconds = 5, warmup = 0.5, pace = 0, fail_percent = 0;
    long window = 0, prefilled = 0, left = 0;
    bool priorities = false, pipeline = true, drain = true;
};

static Options parse(int argc, char **argv) {
    Options options;
    auto number = [](auto &target) {
        return [&target](const char *text) {
            target = static_cast<std::decay_t<decltype(target)>>(std::atof(text));
        };
    };
    const std::map<std::string, std::function<void(const char *)>> valued = {
        {"--system", [&](const char *text) { options.system = text; }},
        {"--mode", [&](const char *text) { options.mode = text; }},
        {"--producers", number(options.producers)},
        {"--workers", number(options.workers)},
        {"--batch", number(options.batch)},
        {"--in-flight", number(options.in_flight)},
        {"--seconds", number(options.seconds)},
        {"--warmup", number(options.warmup)},
        {"--window", number(options.window)},
        {"--pace", number(options.pace)},
        {"--prefilled", number(options.prefilled)},
        {"--left", number(options.left)},
        {"--fail-percent", number(options.fail_percent)},
        {"--listeners", number(options.listeners)},
    };
    for (int i = 1; i < argc; i++) {
        if (!std::strcmp(argv[i], "--priorities"))
            options.priorities = true;
        else if (!std::strcmp(argv[i], "--no-pipeline"))
            options.pipeline = false;
        else if (!std::strcmp(argv[i], "--no-drain"))
            options.drain = false;
        else if (auto option = valued.find(argv[i]); option != valued.end() && i + 1 < argc)
            option->second(argv[++i]);
        else
            throw std::runtime_error(std::string("bad option ") + argv[i]);
    }
    if (options.window == 0) // jobs enough for every worker, few enough to stay in the caches
        options.window = options.pace > 0 || options.workers == 0
                             ? std::numeric_limits<long>::max() / 2
                             : std::max(1000, 100 * options.batch);
    return options;
}

// What a client saw.
struct Report {
    Samples enqueue, claim, complete, fail, combined, wake;
    long empty_claims = 0;
    long notifications = 0;

    void add(const Report &more) {
        enqueue.add(more.enqueue);
        claim.add(more.claim);
        complete.add(more.complete);
        fail.add(more.fail);
        combined.add(more.combined);
        wake.add(more.wake);
        empty_claims += more.empty_claims;
        notifications += more.notifications;
    }
};

class Load {
public:
    explicit Load(const Options &options)
        : options_(options), system_(make_system(options.system)),
          gate_(options.window, options.prefilled) {
        if (!system_)
            throw std::runtime_error("no such system: " + options.system);
    }

    int run() {
        if (options_.mode == "latency")
            add_latency();
        else if (options_.mode == "waiters")
            add_waiters();
        else
            add_life();

        std::cout << "ready" << std::endl;
        if (std::string line; !std::getline(std::cin, line))
            return 1;
        start_ = Clock::now();
        for (auto &client : clients_)
            threads_.emplace_back([this, &client] { guarded(client); });

        if (options_.mode == "life" && options_.producers > 0)
            sleep_until(options_.warmup + options_.seconds);
        else if (options_.mode == "life")
            gate_.close(); // nothing comes, the workers empty it
        else
            sleep_until(options_.seconds);
        options_.drain ? gate_.close() : gate_.stop();
        for (std::thread &thread : threads_)
            thread.join();
        end_ = now();
        stop_helpers();

        if (gate_.failed())
            return 1;
        std::cout << json() << std::endl;
        for (std::string line; std::getline(std::cin, line);) { // the caller still measures
        }
        return wrong_ ? 1 : 0;
    }

private:
    struct Client {
        std::function<void(Client &)> body;
        Connection connection;
        Report report;

        explicit Client(std::function<void(Client &)> what) : body(std::move(what)) {}
    };

    double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

    void sleep_until(double at) const {
        std::this_thread::sleep_until(start_ + std::chrono::duration_cast<Clock::duration>(
                                                   std::chrono::duration<double>(at)));
    }

    void guarded(Client &client) {
        try {
            client.body(client);
        } catch (const std::exception &error) {
            std::cerr << options_.system << ": " << error.what() << std::endl;
            gate_.fail();
        }
    }

    Client &add_client(std::function<void(Client &)> body) {
        return clients_.emplace_back(std::move(body));
    }

    // --- life ------------------------------------------------------------------------------------

    void add_life() {
        for (int i = 0; i < options_.producers; i++)
            system_->prepare_producer(
                add_client([this, i](Client &self) { produce(self, i); }).connection);
        for (int i = 0; i < options_.workers; i++)
            system_->prepare_worker(add_client([this, i](Client &self) {
                                        if (i > 0 && system_->is_log())
                                            return; // each consumer would get all of it
                                        system_->has_ticker() ? consume(self) : work(self, i);
                                    }).connection);
        if (system_->has_ticker() && options_.workers > 0)
            system_->prepare_worker(add_client([this](Client &self) { tick(self); }).connection);
        if (options_.listeners > 0)
            add_listeners();
    }

    void produce(Client &self, int number) {
        static constexpr const char *priorities[] = {"-10", "0", "10"};
        std::minstd_rand random(number + 1);
        const double step = options_.pace > 0 ? options_.batch * options_.producers / options_.pace
                                              : 0; // seconds between two calls of this producer
        double next = step * number / std::max(1, options_.producers);
        std::deque<double> begun; // when the statements under way were sent
        while (gate_.admit(options_.batch)) {
            if (step > 0) {
                sleep_until(next);
                next += step;
            }
            begun.push_back(now());
            system_->send_enqueue(self.connection, options_.batch,
                                  options_.priorities ? priorities[random() % 3] : nullptr);
            if (static_cast<int>(begun.size()) >= options_.in_flight)
                receive_enqueued(self, begun);
        }
        while (!begun.empty())
            receive_enqueued(self, begun);
    }

    void receive_enqueued(Client &self, std::deque<double> &begun) {
        int jobs = system_->enqueued(self.connection.receive());
        double end = now();
        if (jobs != options_.batch)
            throw std::runtime_error("an enqueue added " + std::to_string(jobs) + " jobs");
        self.report.enqueue.add(end, end - begun.front(), jobs);
        begun.pop_front();
        gate_.publish(jobs);
    }

    // The loop of a worker with plenty to do: says that its jobs are done and asks for the next, in
    // one round trip.
    void work(Client &self, int number) {
        std::minstd_rand random(1000 + number);
        std::uniform_real_distribution<double> percent(0, 100);
        Jobs held;
        for (;;) {
            int want = static_cast<int>(gate_.take(options_.batch, held.empty()));
            if (want == 0 && held.empty()) {
                system_->end_work(self.connection);
                return;
            }
            bool failing = !held.empty() && percent(random) < options_.fail_percent;
            if (system_->combines() && want > 0 && !failing) {
                held = complete_and_claim(self, held, want);
                continue;
            }
            double begin = now();
            if (!held.empty()) {
                failing ? system_->send_fail(self.connection, held)
                        : system_->send_complete(self.connection, held);
                if (want > 0 && options_.pipeline)
                    system_->send_claim(self.connection, want);
                finish(self, held, failing, begin);
                if (want > 0 && !options_.pipeline) {
                    begin = now();
                    system_->send_claim(self.connection, want);
                } else {
                    begin = now();
                }
            } else {
                system_->send_claim(self.connection, want);
            }
            held = want > 0 ? receive_claimed(self, self.report.claim, want, begin) : Jobs();
        }
    }

    void finish(Client &self, const Jobs &held, bool failing, double begin) {
        int finished = system_->finished(self.connection.receive());
        double end = now();
        if (finished != held.size())
            throw std::runtime_error("of " + std::to_string(held.size()) + " claimed jobs only " +
                                     std::to_string(finished) + " could be finished");
        (failing ? self.report.fail : self.report.complete).add(end, end - begin, finished);
        if (failing) // a little later than the second that it waits, so that it is there
            gate_.again(Clock::now() + std::chrono::milliseconds(1050));
        else
            gate_.done(finished);
    }

    Jobs receive_claimed(Client &self, Samples &samples, int want, double begin) {
        Jobs jobs = claimed(self.connection.receive());
        double end = now();
        samples.add(end, end - begin, jobs.size());
        if (jobs.size() < want) {
            self.report.empty_claims++;
            if (now() > end_of_patience())
                throw std::runtime_error("jobs are missing: they cannot be claimed");
            if (jobs.empty())
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            gate_.give_back(want - jobs.size());
        }
        return jobs;
    }

    Jobs complete_and_claim(Client &self, const Jobs &held, int want) {
        double begin = now();
        system_->send_complete_and_claim(self.connection, held, want);
        Jobs jobs = receive_claimed(self, self.report.combined, want, begin);
        double end = now();
        if (!held.empty()) {
            self.report.complete.add(end, end - begin, held.size());
            gate_.done(held.size());
        }
        return jobs;
    }

    // The end of the run, and time to finish what is left then.
    double end_of_patience() const { return options_.warmup + options_.seconds + 30; }

    // The consumer of a log with a ticker.
    void consume(Client &self) {
        while (!gate_.drained()) {
            double begin = now();
            Result batch = self.connection.call("next");
            if (batch.null(0, 0)) {
                if (begin > end_of_patience())
                    throw std::runtime_error("events are missing");
                self.report.empty_claims++;
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
                continue;
            }
            int events = self.connection.call("events", {batch.text(0, 0)}).rows();
            double middle = now();
            self.connection.call("finish", {batch.text(0, 0)});
            double end = now();
            if (events > 0) {
                self.report.claim.add(middle, middle - begin, events);
                self.report.complete.add(end, end - middle, events);
                gate_.done(events);
            }
        }
    }

    void tick(Client &self) { // often: events are seen once a tick is behind them
        while (!gate_.drained()) {
            self.connection.call("tick");
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
    }

    // --- listeners -------------------------------------------------------------------------------

    void add_listeners() {
        for (int i = 0; i < options_.listeners; i++) {
            listening_.emplace_back();
            listening_.back().execute(std::string("LISTEN ") + system_->channel());
        }
        helper_ = std::thread([this] { listen(); });
    }

    void listen() {
        std::vector<pollfd> sockets;
        for (const Connection &connection : listening_)
            sockets.push_back({PQsocket(connection.raw()), POLLIN, 0});
        while (!stopping_) {
            if (poll(sockets.data(), sockets.size(), 100) <= 0)
                continue;
            for (size_t i = 0; i < sockets.size(); i++)
                if (sockets[i].revents)
                    notifications_ += drain_notifications(listening_[i].raw());
        }
    }

    static long drain_notifications(PGconn *connection) {
        long count = 0;
        PQconsumeInput(connection);
        while (PGnotify *notification = PQnotifies(connection)) {
            PQfreemem(notification);
            count++;
        }
        return count;
    }

    void stop_helpers() {
        stopping_ = true;
        if (helper_.joinable())
            helper_.join();
    }

    // --- latency ---------------------------------------------------------------------------------

    void add_latency() {
        system_->prepare_producer(add_client([this](Client &self) { wake_up(self); }).connection);
        Client &worker = add_client([this](Client &self) { be_woken(self); });
        system_->prepare_worker(worker.connection);
        if (!system_->waits())
            worker.connection.execute(std::string("LISTEN ") + system_->channel());
    }

    // Adds a job whenever the worker has gone to sleep. The last one sends it home.
    void wake_up(Client &self) {
        std::minstd_rand random(1);
        for (bool last = false; !last && !gate_.failed();) {
            while (served_ < asked_ && !gate_.failed())
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            std::this_thread::sleep_for(std::chrono::microseconds(2000 + random() % 6000));
            last = now() > options_.seconds;
            ++asked_;
            going_home_ = last;
            double begin = now();
            system_->send_enqueue(self.connection, 1, nullptr);
            system_->enqueued(self.connection.receive());
            double end = now();
            committed_.push_back(end);
            self.report.enqueue.add(end, end - begin, 1);
        }
    }

    void be_woken(Client &self) {
        while (!gate_.failed() && !(going_home_ && served_ == asked_)) {
            sleep_for_work(self);
            double begin = now();
            system_->send_claim(self.connection, 1);
            Jobs jobs = receive_claimed(self, self.report.claim, 1, begin);
            if (jobs.empty())
                continue;
            had_.push_back(now());
            begin = now();
            system_->send_complete(self.connection, jobs);
            finish(self, jobs, false, begin);
            ++served_;
        }
    }

    // The producer can hear of its commit later than the worker of the job: that is no time at all.
    Samples wake_ups() const {
        Samples samples;
        for (size_t i = 0; i < std::min(committed_.size(), had_.size()); i++)
            samples.add(had_[i], std::max(0.0, had_[i] - committed_[i]), 1);
        return samples;
    }

    void sleep_for_work(Client &self) {
        if (system_->waits()) {
            self.connection.call("wait");
            return;
        }
        PGconn *raw = self.connection.raw();
        while (drain_notifications(raw) == 0) {
            pollfd socket = {PQsocket(raw), POLLIN, 0};
            poll(&socket, 1, 1000);
        }
    }

    // --- waiters ---------------------------------------------------------------------------------

    // One thread for all of them; each waits, and when its time is over again.
    void add_waiters() {
        for (int i = 0; i < options_.workers; i++) {
            listening_.emplace_back();
            system_->prepare_worker(listening_.back());
            listening_.back().send("wait");
        }
        std::this_thread::sleep_for(std::chrono::seconds(2)); // until all sleep
        add_client([this](Client &self) { wait_all(self); });
    }

    void wait_all(Client &self) {
        std::vector<pollfd> sockets;
        for (const Connection &connection : listening_)
            sockets.push_back({PQsocket(connection.raw()), POLLIN, 0});
        while (!gate_.drained()) {
            if (poll(sockets.data(), sockets.size(), 200) <= 0)
                continue;
            for (size_t i = 0; i < sockets.size(); i++)
                if (sockets[i].revents) {
                    listening_[i].receive();
                    self.report.wake.add(now(), 0, 0);
                    listening_[i].send("wait");
                }
        }
    }

    // --- the report ------------------------------------------------------------------------------

    std::string json() {
        Report all;
        for (const Client &client : clients_)
            all.add(client.report);
        all.wake.add(wake_ups());
        const long enqueued = all.enqueue.jobs(), completed = all.complete.jobs();
        const bool lives = options_.workers > 0;
        const Samples &counted = lives ? all.complete : all.enqueue;
        double from = options_.warmup, to = options_.warmup + options_.seconds;
        if (options_.mode != "life")
            from = 0, to = options_.seconds;
        else if (options_.producers == 0)
            from = 0, to = std::max(1e-6, counted.last()) + 1e-6; // the time that the drain took

        std::string text = "{\"system\": \"" + options_.system + '"';
        auto add = [&](const char *name, auto value) {
            text += std::string(", \"") + name + "\": " + std::to_string(value);
        };
        add("enqueued", enqueued);
        add("completed", completed);
        add("jobs", lives ? completed : enqueued);
        add("seconds", to - from);
        add("rate", counted.jobs(from, to) / (to - from));
        add("empty_claims", all.empty_claims);
        add("notifications", notifications_.load());
        if (options_.mode == "life") {
            Connection connection;
            long left = std::atol(connection.execute(system_->count_open()).text(0, 0));
            bool removed = lives && !system_->is_log();
            long expected =
                options_.left + options_.prefilled + enqueued - (removed ? completed : 0);
            add("left", left);
            if (left != expected) {
                std::cerr << options_.system << ": " << left << " jobs are left, not " << expected
                          << std::endl;
                wrong_ = true;
            }
            if (lives && options_.drain && completed != options_.prefilled + enqueued) {
                std::cerr << options_.system << ": " << completed << " jobs are completed, not "
                          << options_.prefilled + enqueued << std::endl;
                wrong_ = true;
            }
        }
        text += ", \"latency\": {";
        const std::pair<const char *, const Samples *> operations[] = {
            {"enqueue", &all.enqueue},   {"claim", &all.claim}, {"complete", &all.complete},
            {"combined", &all.combined}, {"fail", &all.fail},   {"wake", &all.wake}};
        const char *comma = "";
        for (auto &[name, samples] : operations)
            if (!samples->empty()) {
                text += comma + ('"' + std::string(name)) + "\": " + samples->json(from, to);
                comma = ", ";
            }
        text += '}';
        if (options_.mode == "life" && lives) { // how it began, how it ended
            double slice = std::min(10.0, (to - from) / 2);
            const Samples &claims = all.claim.empty() ? all.combined : all.claim;
            for (auto [name, begin] : {std::pair("first", from), std::pair("last", to - slice)}) {
                text += std::string(", \"") + name + "\": {\"rate\": " +
                        std::to_string(all.complete.jobs(begin, begin + slice) / slice) +
                        ", \"claim\": " + claims.json(begin, begin + slice) + '}';
            }
        }
        return text + '}';
    }

    const Options options_;
    const std::unique_ptr<System> system_;
    Gate gate_;
    std::deque<Client> clients_;
    std::deque<Connection> listening_;
    std::vector<std::thread> threads_;
    std::thread helper_;
    std::atomic<bool> stopping_ = false;
    std::atomic<long> notifications_ = 0;
    Clock::time_point start_;
    double end_ = 0;
    bool wrong_ = false;

    // latency: jobs added and completed, and when the one side and the other had which
    std::atomic<long> asked_ = 0, served_ = 0;
    std::atomic<bool> going_home_ = false;
    std::deque<double> committed_, had_;
};

} // namespace bench

int main(int argc, char **argv) {
    try {
        return bench::Load(bench::parse(argc, argv)).run();
    } catch (const std::exception &error) {
        std::cerr << "load: " << error.what() << std::endl;
        return 1;
    }
}
