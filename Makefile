# Builds pgjobs with PGXS. Works on a fresh Debian: whatever is missing is installed first.
#
#   make            build the library and the install script
#   make install    install them into this PostgreSQL (as root)
#   make demo       a running example on a throw-away cluster; make demo-stop ends it
#   make test       every test suite; make test TESTS='regress tap:003*' for some of them
#   make test-assert     most of them on a server with assertions, built from Debian's sources
#   make test-versions   unit, regress, isolation, pgtap and tap on PostgreSQL 17 and 18, in other Debians
#   make faults     crashes, failovers, faults inside, recovery, seeded bugs and more
#   make faults-long BUDGET=90        the same for that many minutes
#   make fuzz       arguments, names, random queries, libFuzzer; make fuzz-long BUDGET=60 for that many minutes
#   make test-valgrind   twelve scenarios on a server under valgrind
#   make soak BUDGET=10  that many minutes of ordinary work, after which nothing may grow any more
#   make test-sanitize   regress, isolation, faults with AddressSanitizer and UndefinedBehaviorSanitizer
#   make coverage   how much of the C++ the suites run
#   make lint       format, static analysis, layers, symbols; make format repairs the format
#   make bench      the measurements; make bench-quick some of them, in two minutes
#   make dist       the release archive, in build/

PG_CONFIG ?= pg_config

EXTENSION = pgjobs
MODULE_big = pgjobs
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" pgjobs.control)

# The install script is these files of src/, in this order: what is used comes before its users.
SQL_PARTS = install queue acl job history receipt topic subscription feed attach produce work manage wait duty check count views health last

OBJDIR = build/obj
SQL = build/pgjobs--$(EXTVERSION).sql
SOURCES = $(wildcard src/*.cpp src/core/*.cpp src/pg/*.cpp)
INCLUDES = $(wildcard src/*.hpp src/*/*.hpp)
OBJS = $(SOURCES:src/%.cpp=$(OBJDIR)/%.o)
DATA = $(wildcard src/updates/pgjobs--*--*.sql)
DATA_built = $(SQL)
EXTRA_CLEAN = build

# No C++ runtime: nothing throws, nothing is destroyed, so that the server's longjmp crosses only
# trivial objects and the library needs no libstdc++. Only what says PGDLLEXPORT is visible.
PG_CXXFLAGS = -std=c++20 -O2 -Wall -Wextra -Wclobbered -Werror=clobbered \
	-Wno-register -Wno-volatile \
	-fno-exceptions -fno-rtti -fno-threadsafe-statics -fvisibility=hidden

# More flags, for builds that nobody ships: sanitizers, points of injection, mutants, coverage.
PGJOBS_CXXFLAGS ?=
PGJOBS_LIBS ?=
SHLIB_LINK = $(PGJOBS_LIBS)
PG_CXXFLAGS += $(PGJOBS_CXXFLAGS)

# -isystem: warnings inside the server's headers are not ours. The assertions of libstdc++ would
# call into it.
PG_CPPFLAGS = -Isrc -DPGJOBS_VERSION='"$(EXTVERSION)"' -isystem $(shell $(PG_CONFIG) --includedir-server) -U_GLIBCXX_ASSERTIONS

# Bitcode serves inlining into queries; nothing here is worth it.
override with_llvm := no

.DEFAULT_GOAL := all
.PHONY: build demo demo-stop test test-assert test-versions test-sanitize test-valgrind coverage faults faults-long soak fuzz fuzz-long lint format bench bench-quick dist drop-clusters

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(wildcard $(PGXS)),)

# A fresh machine: install the tools, then start over.
ifdef TOOLS_INSTALLED
$(error $(PG_CONFIG) names no PostgreSQL that extensions can be built for)
endif
GOALS = $(or $(MAKECMDGOALS),all)
.PHONY: packages $(GOALS)
.NOTPARALLEL:
$(GOALS): packages
	@$(MAKE) --no-print-directory $@ TOOLS_INSTALLED=yes
packages:
	@tools/install-packages build

else

build: all

demo:
	@tools/install-packages demo
	@tools/install-extension
	@examples/demo/run

demo-stop:
	@examples/demo/run stop

test:
	@test/run $(TESTS)

test-assert:
	@test/assert $(TESTS)

test-versions:
	@test/versions $(TESTS)

fuzz fuzz-long:
	@tools/install-packages fuzz
	@tools/install-extension
	@test/fuzz/all $(if $(filter %-long,$@),--minutes $(or $(BUDGET),60))

test-valgrind:
	@test/valgrind

faults faults-long:
	@tools/install-packages test
	@tools/install-extension
	@test/faults/all $(if $(filter %-long,$@),--minutes $(or $(BUDGET),90))

soak:
	@tools/install-packages test
	@tools/install-extension
	@test/faults/soak --minutes $(or $(BUDGET),10)

test-sanitize:
	@test/sanitize $(TESTS)

coverage:
	@test/coverage $(TESTS)

lint:
	@tools/lint

format:
	tools/install-packages lint
	find src test bench -name '*.[ch]pp' 2>/dev/null | xargs clang-format-14 -i

bench:
	tools/install-packages $@
	bench/run
	bench/own-table

bench-quick:
	tools/install-packages $@
	bench/run --quick

build/bench/load: $(wildcard bench/*.cpp bench/*.hpp) Makefile
	@mkdir -p $(@D)
	$(CXX) -std=c++20 -O2 -Wall -Wextra -pthread -I$(shell $(PG_CONFIG) --includedir) \
		$(filter %.cpp,$^) -o $@ -lpq

dist:
	mkdir -p build
	git archive --format=zip --prefix=pgjobs-$(EXTVERSION)/ -o build/pgjobs-$(EXTVERSION).zip HEAD

include $(PGXS)

# Another server or other flags: every object is built anew.
FLAGS = build/flags
$(shell mkdir -p build; echo '$(shell $(PG_CONFIG) --version --bindir) $(PGJOBS_CXXFLAGS)' >$(FLAGS).new; \
	cmp -s $(FLAGS).new $(FLAGS) || cp $(FLAGS).new $(FLAGS))

# Every object depends on every header: a header is a contract, and the build is short.
$(OBJDIR)/%.o: src/%.cpp $(INCLUDES) Makefile $(FLAGS)
	@mkdir -p $(@D)
	$(COMPILE.cc) -o $@ $<

$(SQL): $(SQL_PARTS:%=src/%.sql) Makefile
	@mkdir -p $(@D)
	cat $(SQL_PARTS:%=src/%.sql) > $@

# A cluster that still runs below build/ goes before its files do.
clean: drop-clusters
drop-clusters:
	@find build -name data -prune -printf '%h\n' 2>/dev/null | xargs -r -n 1 tools/cluster drop

endif
