"""Test programs in lanes, in rounds with new seeds until a time is over."""

import argparse
import concurrent.futures
import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import time

from server import ROOT


class Rounds:
    """A subclass says what a round is: in `short` and `long` the lanes that run at the same time, each of
    them programs, with arguments, of the directory `here`; in `alone_short` and `alone_long` what runs by
    itself after them; in `once` those of the first round only. What comes of them is in build/, in a
    directory of the same name."""
    short = long = alone_short = alone_long = once = ()

    def __init__(self, here, options):
        self.here = here
        self.work = os.path.join(ROOT, "build", os.path.basename(here))
        self.options = options
        self.random = random.Random(options.seed)
        self.phases = []
        self.began = time.monotonic()

    def phase(self, words, seed):
        """One program; `words` is its name and arguments, before a "/" the name of its directory if
        that is another one."""
        name, _, command = words.rpartition("/")
        program, *arguments = command.split()
        name = name or program
        command = [os.path.join(self.here, program), *arguments]
        directory = os.path.join(self.work, name)
        if program != "sweep":  # it leaves nothing to chance
            command += ["--seed", str(seed)]
        if program != "mutants":  # they have one each
            command += ["--directory", directory]
        said = " ".join([os.path.relpath(command[0], ROOT), *command[1:]])
        print(f"== {said}", flush=True)
        began = time.monotonic()
        with open(directory + ".output", "w", encoding="utf-8") as output:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT,
                                  check=False).returncode
        with open(directory + ".output", encoding="utf-8") as output:
            text = output.read()
        counted = re.findall(r"^(\d+) passed, (\d+) failed$", text, re.MULTILINE)
        passed, failed = map(int, counted[-1]) if counted else (0, 1)
        report = self.report_of(directory)
        if code != 0:
            failed = max(failed, 1)
            print("\n".join(text.splitlines()[-60:]))
            self.keep(name, directory, seed)
        seconds = round(time.monotonic() - began)
        print(f"{name}: {passed} passed, {failed} failed, {seconds} s", flush=True)
        self.phases.append({"command": said, "passed": passed, "failed": failed,
                            "seconds": seconds, "report": report})

    @staticmethod
    def report_of(directory):
        try:
            with open(os.path.join(directory, "report.json"), encoding="utf-8") as file:
                return json.load(file)
        except OSError:
            return None

    def keep(self, name, directory, seed):
        kept = os.path.join(self.work, "failed", f"{name}-{seed}")
        os.makedirs(kept, exist_ok=True)
        shutil.copy(directory + ".output", kept)
        if os.path.isdir(directory):
            subprocess.run([os.path.join(ROOT, "tools/cluster"), "stop",
                            os.path.join(directory, "cluster")], check=False)
            shutil.move(directory, kept)
        print(f"kept: {kept}")

    def lane(self, phases, seeds):
        for words, seed in zip(phases, seeds):
            self.phase(words, seed)

    def round(self, first):
        lanes = self.long if self.options.minutes else self.short
        alone = self.alone_long if self.options.minutes else self.alone_short
        lanes, alone = [self.wanted(lane, first) for lane in lanes], self.wanted(alone, first)
        seeds = [self.seeds(lane) for lane in lanes]
        with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(self.lane, lanes, seeds))
        self.lane(alone, self.seeds(alone))

    def wanted(self, phases, first):
        return [words for words in phases if first or words.split()[0] not in self.once]

    def seeds(self, phases):
        return [self.random.getrandbits(62) for _ in phases]

    def over(self):
        return time.monotonic() - self.began > 60 * self.options.minutes

    def run(self):
        os.makedirs(self.work, exist_ok=True)
        self.round(first=True)
        while not self.over():
            self.round(first=False)
        failed = sum(phase["failed"] for phase in self.phases)
        report = {"seed": self.options.seed, "seconds": round(time.monotonic() - self.began),
                  "passed": sum(phase["passed"] for phase in self.phases), "failed": failed,
                  "totals": self.totals(), "phases": self.phases}
        with open(os.path.join(self.work, "report.json"), "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
        print("\n" + ", ".join(f"{count} {what}" for what, count in self.totals().items()) +
              f", {report['seconds']} s; {os.path.relpath(self.work, ROOT)}/report.json")
        print(f"{report['passed']} passed, {failed} failed")
        sys.exit(1 if failed else 0)

    def totals(self):
        """What the phases have done together, by name."""
        return {}

    def total(self, name):
        return sum((phase["report"] or {}).get("counts", {}).get(name, 0) for phase in self.phases)


def main(rounds_class, about):
    parser = argparse.ArgumentParser(description=about.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=int, default=secrets.randbits(62))
    parser.add_argument("--minutes", type=float, default=0)
    options = parser.parse_args()
    program = os.path.realpath(sys.argv[0])
    print(f"{os.path.relpath(program, ROOT)} --seed {options.seed} --minutes {options.minutes}", flush=True)
    rounds_class(os.path.dirname(program), options).run()
