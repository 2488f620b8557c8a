"""`python -m bench [GROUP …]`: run groups of benchmarks, print their tables, and write build/bench.json.

From the top folder; `make bench` and `make bench BENCH=compile` do that. The groups, in the order in which they run:

    memory    how fast memory is read and copied: the limit of whatever looks at every match
    index     overlap queries of MatchIndex
    compile   policy tree to network flow table: bulk load, adds, removes, flows, memory
    schedule  admissions of reservations through 5 nested shares
    bounds    the longest piece of work of one statement, for input that is meant to hurt
    push      flows to a real ovs-vswitchd
    queues    queues in the database of a real ovs-vswitchd, against ovs-vsctl
    fattree   a simulated fat-tree: admission with room on links, placement, moving hosts, failing links
    cluster   many daemons on one clustered database: statements and transactions a second, fan-out, recovery
    shared    the network shared over one clustered database: start, moving hosts, rest
    way       a statement on the Unix socket to its reply, and to the installed flow (the whole daemon)
    hostile   the same of an honest client beside hostile ones

Nothing else should run on the machine. `--seconds` bounds one case; what does not end is reported as such.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.document import replaced
from bench.results import Result, results_table, write

GROUPS = {
    "memory": "bench.memory",
    "index": "bench.index",
    "compile": "bench.compiling",
    "schedule": "bench.admitting",
    "bounds": "bench.bounds",
    "push": "bench.flow_push",
    "queues": "bench.queues",
    "fattree": "bench.fattree",
    "cluster": "bench.cluster",
    "shared": "bench.shared",
    "way": "bench.whole_way",
    "hostile": "bench.hostile",
}
OUTPUT = Path("build/bench.json")


def machine() -> str:
    """What the figures are of."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        "unknown CPU",
    )
    day = datetime.now(UTC).date().isoformat()
    return f"{day}, {os.cpu_count()} x {cpu}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def commit() -> str:
    """The commit that is measured, if that is known."""
    known, changed = (
        subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()
        for arguments in (("describe", "--always"), ("status", "--porcelain", "--", "ovspane", "bench"))
    )
    return (known or "unknown") + (" and changes" if changed else "")


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def main(arguments: list[str] | None = None) -> int:
    """As a program: see `--help`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Run benchmarks; print tables; write build/bench.json."
    )
    parser.add_argument("groups", metavar="GROUP", nargs="*", help=f"{', '.join(GROUPS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for one case (default: 60)")
    parser.add_argument(
        "--document", type=Path, metavar="FILE", help="put each group's table into its section of this file"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the file of results (default: build/bench.json)")
    options = parser.parse_args(arguments)
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    print(machine(), flush=True)
    for group in options.groups or GROUPS:
        found: list[Result] = []
        print(f"\n{group}", flush=True)
        for result in importlib.import_module(GROUPS[group]).results(options.seconds):
            found.append(result)
            shown = result.note if result.value is None else f"{result.value:12.4g} {result.unit}"
            print(f"  {result.name:44} {shown}", file=sys.stderr, flush=True)
        shown = results_table(found)
        print(shown, flush=True)
        write(options.output, found)
        if options.document is not None:
            text = options.document.read_text(encoding="utf-8")
            section = f"{machine()}; commit {commit()}\n\n{shown}\n"
            options.document.write_text(replaced(text, "make bench", group, section), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
