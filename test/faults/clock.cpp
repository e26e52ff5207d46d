// A wall clock that can be set, for one server: preloaded into it, while the machine's own clock
// and CLOCK_MONOTONIC go on. The file that PGJOBS_CLOCK names is mapped and has two numbers of 64
// bits: how far the clock is ahead, and, if it stands still, when it stopped, in microseconds; else
// 0. Who asks the kernel to be told when the clock is set (timerfd) is told when the file is
// written. No lock and no memory is taken, for the server asks for the time in signal handlers,
// too. Under libfaketime, which does both, a worker was seen that never looked at the file again,
// and a server that had to be killed.
//
//     g++ -shared -fPIC -O2 -o clock.so clock.cpp
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

namespace {

struct Setting {
    std::atomic<int64_t> ahead;
    std::atomic<int64_t> stopped;
};
const Setting *setting; // nullptr: the machine's own clock

__attribute__((constructor)) void open_setting() {
    const char *path = getenv("PGJOBS_CLOCK");
    int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *memory = mmap(nullptr, sizeof(Setting), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (memory != MAP_FAILED)
        setting = static_cast<const Setting *>(memory);
}

// Microseconds since 1970.
int64_t wall() {
    timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    int64_t time = now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
    if (setting == nullptr)
        return time;
    int64_t stopped = setting->stopped;
    return (stopped != 0 ? stopped : time) + setting->ahead;
}

} // namespace

extern "C" {

int gettimeofday(timeval *now, void *) noexcept {
    int64_t time = wall();
    *now = {time / 1000000, time % 1000000};
    return 0;
}

int clock_gettime(clockid_t clock, timespec *now) noexcept {
    if (clock != CLOCK_REALTIME)
        return static_cast<int>(syscall(SYS_clock_gettime, clock, now));
    int64_t time = wall();
    *now = {time / 1000000, time % 1000000 * 1000};
    return 0;
}

time_t time(time_t *now) noexcept {
    time_t seconds = wall() / 1000000;
    if (now != nullptr)
        *now = seconds;
    return seconds;
}

int timerfd_create(int, int) noexcept {
    int told = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return inotify_add_watch(told, getenv("PGJOBS_CLOCK"), IN_MODIFY) < 0 ? -1 : told;
}

int timerfd_settime(int, int, const itimerspec *, itimerspec *) noexcept { return 0; }

} // extern "C"
