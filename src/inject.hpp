// What only builds for tests have: points at which one fails, waits or dies on demand
// (-DPGJOBS_INJECT), and seeded bugs (-DPGJOBS_MUTANTS) that the tests of test/faults must find.
// Nothing of it is in a build that is shipped.
#pragma once

// PGJOBS_POINT("name"): an error is possible here. PGJOBS_QUIET_POINT("name"): none is, in
// callbacks; no lock of ours is held. What happens there is said by a file of that name; see
// inject.cpp. PGJOBS_LOST("name"): whether what comes is left out this time, on demand, too.
#ifdef PGJOBS_INJECT
namespace pgjobs::inject {
void point(const char *name, bool quiet);
bool lost(const char *name);
} // namespace pgjobs::inject
#define PGJOBS_POINT(name) ::pgjobs::inject::point(name, false)
#define PGJOBS_QUIET_POINT(name) ::pgjobs::inject::point(name, true)
#define PGJOBS_LOST(name) ::pgjobs::inject::lost(name)
#else
namespace pgjobs::inject {
constexpr bool lost() { return false; }
} // namespace pgjobs::inject
#define PGJOBS_POINT(name) static_cast<void>(0)
#define PGJOBS_QUIET_POINT(name) static_cast<void>(0)
#define PGJOBS_LOST(name) ::pgjobs::inject::lost()
#endif

namespace pgjobs {

// Whether this server has the seeded bug: the number is PGJOBS_MUTANT in its environment.
// test/faults/mutants says what each is.
#ifdef PGJOBS_MUTANTS
bool mutant(int number);
#else
constexpr bool mutant(int) { return false; }
#endif

} // namespace pgjobs
