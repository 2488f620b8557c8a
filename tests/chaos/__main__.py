"""`python -m tests.chaos`: faults at random under load, and whether all is as it must be after each.

    --rounds N  --seed N  --layout flat|ring  --datapath dummy|netdev|system  --faults NAME,NAME…
    --first N  --minutes N  --patience SECONDS  --report FILE.json

Exit status 0: nothing was wrong; 1: something was, with the round to play it again. The same seed is the same faults
in the same order; what the clients were just saying differs.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path

from tests.chaos.machine import make
from tests.chaos.play import Play, Report, chosen
from tests.support.patience import PATIENCE

MOST_WRONG = 20


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults at random under load.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1, help="the number of the first round")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--layout", choices=("flat", "ring"), default="flat")
    parser.add_argument("--datapath", choices=("dummy", "netdev", "system"), default="dummy", help="flat only")
    parser.add_argument("--faults", default="", help="only these, by name, with commas between")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no round after so many")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds until not yet is called never")
    parser.add_argument("--report", type=Path, help="a JSON file")
    return parser.parse_args(argv)


def alone(argv: list[str]) -> None:
    """Go on in namespaces of our own: mounts are private, and all processes end with this one."""
    if "OVSPANE_CHAOS" not in os.environ:
        own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        own += ["--net"] if options(argv).datapath != "dummy" else []
        os.environ["OVSPANE_CHAOS"] = "1"
        words = ["unshare", *own, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp("unshare", [*words, sys.executable, "-m", "tests.chaos", *argv])


def play(given: argparse.Namespace) -> Report:
    """Play the rounds."""
    names = [name for name in given.faults.split(",") if name]
    faults = chosen(names, given.datapath)
    print(
        f"seed {given.seed}: {given.rounds} rounds of {len(faults)} kinds of fault, {given.layout}, {given.datapath}",
        flush=True,
    )
    machine = make(given.layout, str(given.seed), given.datapath)
    began = time.monotonic()
    try:
        one = Play(machine, given.seed, faults, patience=given.patience, say=lambda text: print(text, flush=True))
        one.begin()
        for number in range(given.first, given.first + given.rounds):
            one.round(number)
            if number % 100 == 0:
                print(f"round {number}: {(time.monotonic() - began) / one.report.rounds:.2f} s each", flush=True)
                if given.report:
                    one.report.write(given.report)
            if len(one.report.wrong) >= MOST_WRONG or time.monotonic() - began > 60 * given.minutes:
                break
        one.prove("end")
        one.report.statements = machine.ledger.answers
        if given.report:
            one.report.write(given.report)
        return one.report
    finally:
        machine.close()


def summary(report: Report) -> list[str]:
    """Lines for people."""
    lines = [f"{report.rounds} rounds, {report.proofs} proofs, statements {dict(report.statements)}"]
    lines.append(f"{'fault':36} rounds  alone    p50    p99    max (seconds until all was right)")
    for name in [*sorted(report.faults), "several"]:
        times = sorted(report.recoveries.get(name, []))
        if times:
            p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
            figures = f"{len(times):6} {statistics.median(times):6.2f} {p99:6.2f} {times[-1]:6.2f}"
            lines.append(f"{name:36} {report.faults.get(name, len(times)):6} {figures}")
    return [*lines, f"{len(report.wrong)} wrong"]


def main(argv: list[str]) -> int:
    alone(argv)
    report = play(options(argv))
    print("\n".join(summary(report)))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
