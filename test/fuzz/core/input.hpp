// Numbers and words out of the bytes that the fuzzer gives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#define CHECK(good)                                                                                \
    do {                                                                                           \
        if (!(good))                                                                               \
            abort();                                                                               \
    } while (false)

struct Input {
    const uint8_t *data;
    size_t left;

    bool empty() const { return left == 0; }

    uint8_t byte() {
        if (left == 0)
            return 0;
        left--;
        return *data++;
    }

    int below(int n) { return byte() % n; }

    // Small ones, so that they meet, and now and then any.
    int64_t number() {
        uint8_t first = byte();
        if (first < 250)
            return first % 24 - 4;
        uint64_t value = 0;
        for (int i = 0; i < 8; i++)
            value = value << 8 | byte();
        return static_cast<int64_t>(value);
    }
};
