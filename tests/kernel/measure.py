"""`make measure`: plays every scenario and writes what it found into docs/measurements.md.

    lab/kernel python -m tests.kernel.measure FILE     all scenarios, on the kernel datapath
    lab/sandbox python -m tests.kernel.measure FILE    those that hold on the userspace datapath

Each datapath has a section of its own in the file, between two comments; the rest of the file stays as it is. Exit
status 1 if a promise was not kept; the table says which, what was run twice, and what this machine is too slow to tell
(control.py).
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.document import replaced
from bench.results import table
from tests.kernel.control import across_a_port, explained, plain_port
from tests.kernel.scenarios import EVERYWHERE, SCENARIOS, Figure, Scenario
from tests.lab.switch import DATAPATH, run
from tests.lab.throughput import Stream

SECONDS = 4
NAMES = {"system": "kernel datapath", "netdev": "userspace datapath"}
GUESTS = {"uml": "user-mode-linux guest", "qemu": "qemu guest", "host": "host"}


def section(name: str, about: str, figures: Iterable[Figure]) -> str:
    """The text between the comments."""
    headings = ("measured across a 20 Mb/s port", "value", "expected", "")
    rows = [(f.name, f"{f.value:.2f} {f.unit}", f"{f.expected} {f.unit}", _verdict(f)) for f in figures]
    return f"## Guarantees and limits, {name}\n\n{about}\n\n{table(headings, rows)}\n"


def _verdict(figure: Figure) -> str:
    if figure.holds():
        return ""
    return "too slow to tell" if figure.untold else "not kept"


def about() -> str:
    version = run("ovs-vswitchd", "--version").splitlines()[0].split()[-1]
    where = GUESTS.get(os.environ.get("OVSPANE_KERNEL", ""), "host")
    day = datetime.now(UTC).date().isoformat()
    around = " The last: a ring of four switches with such links, h1 sends to h3." if DATAPATH == "system" else ""
    return (
        f"{day}, Linux {platform.release()} ({where}), Open vSwitch {version}; h1 and h2 send to h3, whose port "
        "is the narrow one; "
        f"{SECONDS} s each, user data as the receiver counts it. All asked for in the daemon's language.{around} "
        "(second run): the first did not keep it; a guest that gets a part of a processor cannot send enough to "
        "fill the port."
    )


@dataclass(frozen=True, slots=True)
class Part:
    """What is measured at once, and the control for it."""

    figures: Callable[[], Iterable[Figure]]
    control: Callable[[], float]

    def measured(self) -> list[Figure]:
        figures = list(self.figures())
        for figure in figures:
            print(figure, "" if figure.holds() else "  NOT KEPT", flush=True)
        return figures


def _across_a_port(scenario: Scenario) -> Part:
    sent: list[tuple[Stream, ...]] = []
    return Part(lambda: across_a_port(scenario, SECONDS, sent), lambda: plain_port(sent, SECONDS))


def _around_a_ring() -> Iterator[Part]:
    from tests.kernel import ring  # Mininet, which nothing else here needs

    def played(scene: ring.RingScene) -> Iterator[Figure]:
        with ring.ring(SECONDS) as found:
            yield from scene(found)

    def control() -> float:
        with ring.ring(SECONDS) as found:
            return found.plain()

    return (Part(partial(played, scene), control) for scene in ring.RING_SCENES)


def _of(part: Part) -> list[Figure]:
    """The figures of a part; where one is not kept, those of a second run, since load comes and goes."""
    found = part.measured()
    if all(figure.holds() for figure in found):
        return found
    found = [replace(figure, name=f"{figure.name} (second run)") for figure in part.measured()]
    if all(figure.holds() for figure in found):
        return found
    share = part.control()
    return [replace(figure, untold=explained(figure, share)) for figure in found]


def main(path: Path) -> int:
    figures: list[Figure] = []
    on_kernel = DATAPATH == "system"
    scenarios = SCENARIOS.values() if on_kernel else EVERYWHERE
    for part in [*map(_across_a_port, scenarios), *(_around_a_ring() if on_kernel else ())]:
        figures += _of(part)
        new = section(NAMES[DATAPATH], about(), figures)  # each time: a run that is ended leaves what it found
        path.write_text(replaced(path.read_text(encoding="utf-8"), "make measure", DATAPATH, new), encoding="utf-8")
    return int(any(_verdict(figure) == "not kept" for figure in figures))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
