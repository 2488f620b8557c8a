"""`make measure`: plays every scenario and writes what it found into docs/measurements.md.

    lab/kernel python -m tests.kernel.measure FILE     all scenarios, on the kernel datapath
    lab/sandbox python -m tests.kernel.measure FILE    those that hold on the userspace datapath

Each datapath has a section of its own in the file, between two comments; the rest of the file stays as it is. Exit
status 1 if a promise was not kept; the table says which, and what was run twice.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.document import replaced
from bench.results import table
from tests.kernel.scenarios import EVERYWHERE, SCENARIOS, Figure, Scenario, play
from tests.lab import topology
from tests.lab.switch import DATAPATH, run

SECONDS = 4
NAMES = {"system": "kernel datapath", "netdev": "userspace datapath"}
GUESTS = {"uml": "user-mode-linux guest", "qemu": "qemu guest", "host": "host"}


def section(name: str, about: str, figures: Iterable[Figure]) -> str:
    """The text between the comments."""
    headings = ("measured across a 20 Mb/s port", "value", "expected", "")
    rows = [
        (f.name, f"{f.value:.2f} {f.unit}", f"{f.expected} {f.unit}", "" if f.holds() else "not kept") for f in figures
    ]
    return f"## Guarantees and limits, {name}\n\n{about}\n\n{table(headings, rows)}\n"


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


def _across_a_port(scenario: Scenario) -> Iterator[Figure]:
    with topology.one_bridge(3) as lan:
        yield from play(scenario, lan, SECONDS)


def _around_a_ring() -> Iterator[Callable[[], Iterator[Figure]]]:
    from tests.kernel import ring  # Mininet, which nothing else here needs

    def played(scene: ring.RingScene) -> Iterator[Figure]:
        with ring.ring(SECONDS) as found:
            yield from scene(found)

    return (partial(played, scene) for scene in ring.RING_SCENES)


def _played(figured: Callable[[], Iterator[Figure]]) -> list[Figure]:
    figures = list(figured())
    for figure in figures:
        print(figure, "" if figure.holds() else "  NOT KEPT", flush=True)
    return figures


def main(path: Path) -> int:
    figures: list[Figure] = []
    on_kernel = DATAPATH == "system"
    scenarios = SCENARIOS.values() if on_kernel else EVERYWHERE
    for played in [
        *(partial(_across_a_port, scenario) for scenario in scenarios),
        *(_around_a_ring() if on_kernel else ()),
    ]:
        found = _played(played)
        if not all(figure.holds() for figure in found):  # the senders may not have got the processor: once more
            found = [replace(figure, name=f"{figure.name} (second run)") for figure in _played(played)]
        figures += found
        new = section(NAMES[DATAPATH], about(), figures)  # each time: a run that is ended leaves what it found
        path.write_text(replaced(path.read_text(encoding="utf-8"), "make measure", DATAPATH, new), encoding="utf-8")
    return 0 if all(figure.holds() for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
