// Keeps producers and workers in step. Producers stop while too many jobs are under way, workers
// sleep while there is not a whole batch to claim. So every system has the same backlog and full
// batches, and none is asked for jobs that are not there.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

namespace bench {

using Clock = std::chrono::steady_clock;

class Gate {
public:
    // window: jobs under way, at most. ready: jobs that are there before the start.
    Gate(long window, long ready) : window_(window), under_way_(ready), ready_(ready) {}

    // A producer wants to add jobs; false when it is time to stop.
    bool admit(long jobs) {
        std::unique_lock lock(mutex_);
        room_.wait(lock, [&] { return closed_ || under_way_ + jobs <= window_; });
        if (closed_)
            return false;
        under_way_ += jobs;
        return true;
    }

    // Its jobs are committed.
    void publish(long jobs) {
        std::lock_guard lock(mutex_);
        ready_ += jobs;
        work_.notify_one();
    }

    // A worker wants to claim a whole batch, or what is left once the gate is closed. 0: nothing
    // left, or, without patience, no whole batch now.
    long take(long batch, bool patient) {
        std::unique_lock lock(mutex_);
        for (;;) {
            if (stopped_)
                return 0;
            for (; !later_.empty() && later_.front() <= Clock::now(); later_.pop_front())
                ++ready_;
            if (ready_ >= batch)
                break;
            if (closed_ && (ready_ > 0 || under_way_ == 0 || failed_))
                break;
            if (!patient)
                return 0;
            if (later_.empty())
                work_.wait(lock);
            else
                work_.wait_until(lock, later_.front());
        }
        long got = std::min(batch, ready_);
        ready_ -= got;
        if (ready_ >= batch)
            work_.notify_one();
        return got;
    }

    // Jobs that a worker took here were not there in the database after all.
    void give_back(long jobs) { publish(jobs); }

    // A job failed and comes back.
    void again(Clock::time_point when) {
        std::lock_guard lock(mutex_);
        later_.push_back(when);
        work_.notify_one();
    }

    void done(long jobs) {
        std::lock_guard lock(mutex_);
        under_way_ -= jobs;
        room_.notify_one();
        if (closed_ && under_way_ == 0)
            work_.notify_all();
    }

    bool drained() {
        std::lock_guard lock(mutex_);
        return closed_ && (under_way_ == 0 || stopped_ || failed_);
    }

    // Producers stop; workers stop when nothing is left.
    void close() {
        std::lock_guard lock(mutex_);
        closed_ = true;
        room_.notify_all();
        work_.notify_all();
    }

    // All stop, with what they have in hand.
    void stop() {
        close();
        std::lock_guard lock(mutex_);
        stopped_ = true;
        work_.notify_all();
    }

    // A client failed: all stop.
    void fail() {
        std::lock_guard lock(mutex_);
        closed_ = failed_ = true;
        ready_ = 0;
        room_.notify_all();
        work_.notify_all();
    }

    bool failed() {
        std::lock_guard lock(mutex_);
        return failed_;
    }

private:
    std::mutex mutex_;
    std::condition_variable room_, work_;
    std::deque<Clock::time_point> later_; // when failed jobs come back, ascending
    const long window_;
    long under_way_; // added or about to be, not done
    long ready_;     // committed, not claimed
    bool closed_ = false;
    bool stopped_ = false;
    bool failed_ = false;
};

} // namespace bench
