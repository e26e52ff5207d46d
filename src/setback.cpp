#include "setback.hpp"

namespace pgjobs::setback {

static Jobs *mine; // of the duty that runs; nullptr: not in a worker

int64 only() { return mine == nullptr ? 0 : mine->only; }

void announce(const int64 *jobs, int count) {
    if (mine == nullptr)
        return;
    mine->coming_count = Min(count, batch);
    memcpy(mine->coming, jobs, sizeof(int64) * mine->coming_count);
}

bool comes_to(int64 job) {
    if (mine == nullptr)
        return true;
    if (mine->only == 0 && mine->failed.has(job))
        return false;
    mine->current = job;
    return true;
}

static void suspect(int64 job) {
    if (mine->count < static_cast<int>(lengthof(mine->suspects)) && !mine->failed.has(job))
        mine->suspects[mine->count++] = job;
}

void takes(int64 job) {
    if (mine != nullptr)
        suspect(job);
}

void begin(Jobs *jobs, int64 only) {
    mine = jobs;
    mine->only = only;
    mine->count = 0;
    mine->current = 0;
    mine->coming_count = 0;
}

void end() {
    if (mine->current != 0)
        suspect(mine->current);
    for (int i = 0; i < mine->coming_count; i++)
        suspect(mine->coming[i]);
    mine = nullptr;
}

} // namespace pgjobs::setback
