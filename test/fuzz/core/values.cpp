// What is computed from numbers and words of users: names, backoff, setbacks, patience, depths,
// states, versions; each against another way to say it.
#include "core/backoff.hpp"
#include "core/depth.hpp"
#include "core/name.hpp"
#include "core/patience.hpp"
#include "core/setbacks.hpp"
#include "core/version.hpp"
#include "input.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <string>

using namespace pgjobs::core;

namespace {

void check_name(Input &input) {
    std::string name;
    for (int i = 0, length = input.below(64); i < length && !input.empty(); i++)
        if (uint8_t c = input.byte(); c != 0)
            name.push_back(static_cast<char>(c));
    static const std::regex good("[a-z][a-z0-9_.-]{0,47}");
    CHECK(is_name(name.c_str()) == std::regex_match(name, good));
}

void check_backoff(Input &input) {
    constexpr int64_t longest = int64_t{36525} * 24 * 3600 * 1000000;
    auto span = [&] {
        return static_cast<int64_t>(static_cast<uint64_t>(input.number()) % (longest + 1));
    };
    int64_t base = span();
    int64_t most = span();
    auto attempt = static_cast<int32_t>(1 + static_cast<uint64_t>(input.number()) % INT32_MAX);
    double random = input.byte() / 256.0;
    int64_t wait = backoff(base, most, attempt, random);
    int doublings = std::min(attempt - 1, 64); // more than that is `most`, or 0, all the same
    long double whole = std::fmin(std::ldexp(static_cast<long double>(base), doublings),
                                  static_cast<long double>(most));
    CHECK(wait >= 0 && wait <= most);
    CHECK(std::fabs(static_cast<long double>(wait) - whole * (0.5L + random / 2)) <=
          1 + whole / (1LL << 50));
}

void check_setbacks(Input &input) {
    static Setbacks setbacks;
    setbacks.count = 0;
    std::map<int64_t, Setback> model;
    int64_t now = 0;
    for (int i = 0, steps = input.below(64); i < steps && !input.empty(); i++) {
        int64_t job = input.number();
        now += input.byte() * 1000;
        if (input.below(3) != 0) {
            CHECK(setbacks.note(job, now));
            auto [at, added] = model.insert({job, {job, 0, Setbacks::first_wait}});
            if (!added)
                at->second.wait = std::min(at->second.wait * 2, Setbacks::longest_wait);
            at->second.again = now + at->second.wait;
        } else {
            setbacks.forget(job);
            model.erase(job);
        }
        CHECK(setbacks.count == static_cast<int>(model.size()));
        CHECK(setbacks.has(job) == (model.count(job) != 0));
        int64_t next = INT64_MAX;
        int n = 0;
        for (const auto &[id, setback] : model) {
            CHECK(setbacks.list[n].job == id && setbacks.list[n].again == setback.again);
            next = std::min(next, setback.again);
            n++;
        }
        CHECK(setbacks.next(INT64_MAX) == next);
    }
}

void check_patience(Input &input) {
    Patience patience{0};
    int64_t last = 0;
    while (!input.empty()) {
        bool busy = input.below(4) != 0;
        int64_t wait = patience.after(busy);
        CHECK(busy ? wait >= first_wait && wait <= longest_wait && wait >= last : wait == 0);
        last = wait;
    }
}

void check_depth(Input &input) {
    Depth a{};
    Depth b{};
    for (int i = 0; i < open_states; i++) {
        a.of[i] = static_cast<int32_t>(input.number());
        b.of[i] = static_cast<int32_t>(input.number());
    }
    Depth sum = a;
    add(&sum, b);
    CHECK((differences(sum, a) == 0) == is_zero(b));
    subtract(&sum, b);
    CHECK(differences(sum, a) == 0);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input{data, size};
    switch (input.below(6)) {
    case 0:
        check_name(input);
        break;
    case 1:
        check_backoff(input);
        break;
    case 2:
        check_setbacks(input);
        break;
    case 3:
        check_patience(input);
        break;
    case 4:
        check_depth(input);
        break;
    default:
        has_notify_repairs(static_cast<int32_t>(input.number()));
    }
    return 0;
}
