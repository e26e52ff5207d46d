// How long calls took, and what is told of it.
#pragma once

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

namespace bench {

struct Sample {
    float at;      // seconds after the start, when the answer came
    float latency; // microseconds
    int jobs;
};

class Samples {
public:
    void add(double at, double seconds, int jobs) {
        samples_.push_back({static_cast<float>(at), static_cast<float>(seconds * 1e6), jobs});
    }
    void add(const Samples &more) {
        samples_.insert(samples_.end(), more.samples_.begin(), more.samples_.end());
    }

    static constexpr double forever = std::numeric_limits<double>::max();

    bool empty() const { return samples_.empty(); }

    long jobs(double from = 0, double to = forever) const {
        long sum = 0;
        for (const Sample &sample : samples_)
            if (from <= sample.at && sample.at < to)
                sum += sample.jobs;
        return sum;
    }

    double last() const { // when the last answer came
        double at = 0;
        for (const Sample &sample : samples_)
            at = std::max<double>(at, sample.at);
        return at;
    }

    // {"calls": n, "jobs": n, "p50": us, "p95": us, "p99": us, "max": us} of the answers in a time.
    std::string json(double from = 0, double to = forever) const {
        std::vector<float> sorted;
        long sum = 0;
        for (const Sample &sample : samples_)
            if (from <= sample.at && sample.at < to) {
                sorted.push_back(sample.latency);
                sum += sample.jobs;
            }
        std::sort(sorted.begin(), sorted.end());
        auto quantile = [&](double q) {
            return sorted.empty() ? 0 : sorted[static_cast<size_t>(q * (sorted.size() - 1))];
        };
        char text[200];
        std::snprintf(text, sizeof text,
                      R"({"calls": %zu, "jobs": %ld, "p50": %.1f, "p95": %.1f, "p99": %.1f, )"
                      R"("max": %.1f})",
                      sorted.size(), sum, quantile(.5), quantile(.95), quantile(.99), quantile(1));
        return text;
    }

private:
    std::vector<Sample> samples_;
};

} // namespace bench
