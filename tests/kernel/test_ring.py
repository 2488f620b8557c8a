"""Reservations on the ring keep their bandwidth on the kernel datapath, across three switches and when links fail in
mid-transfer.

A scene that does not keep a figure is judged by a control (control.py). How long an interruption takes is printed; the
test is that it ends. OVSPANE_SHORT=1: only a failure in mid-transfer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ovspane.host.tc import read_tc
from tests.kernel import ring as scenes
from tests.kernel.control import judge
from tests.kernel.ring import FOUND, HELD, SIDES, Ring, RingScene
from tests.kernel.scenarios import MBIT
from tests.lab.throughput import measure
from tests.support.daemon_process import Talk
from tests.support.ovs_dummy import wait_for

BRIEF = os.environ.get("OVSPANE_SHORT") == "1"
SECONDS, TOLERANCE = (3, 0.15) if BRIEF else (5, 0.05)
SCENES = [scenes.link_fails_under_tcp] if BRIEF else scenes.RING_SCENES


@pytest.fixture(scope="module")
def ring() -> Iterator[Ring]:
    with scenes.ring(SECONDS) as ring:
        yield ring


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_promise(ring: Ring, scene: RingScene) -> None:
    judge(lambda: list(scene(ring)), ring.plain, TOLERANCE)


@pytest.mark.skipif(BRIEF, reason="the short form")
def test_no_room_on_the_other_side(ring: Ring) -> None:
    """Two that do not fit one path together: when one loses its path it takes nothing from the other, its holder is
    told, and it comes back with its link."""
    daemon = ring.daemon
    listener = daemon.client(FOUND)
    assert listener.ask("Subscribe.").startswith("OK")
    one, queue = ring.reserve(port=5201)
    two, other = ring.reserve(port=5202)
    side, free = ring.settled_on(queue)
    assert ring.goes_by(other, SIDES[free])
    ring.fail(side)
    lost = "degraded: no path to its destination has room for it: 12Mb does not fit link"
    wait_for(lambda: lost in daemon.requests()[one], "word of the lost path", FOUND)
    assert hears(listener, "degraded", one)
    for port in SIDES[free]:
        assert set(read_tc(port)) == {0, other}
    stays, *others = measure([ring.flow(1, 3, 5202), ring.flow(1, 3, 5201), *ring.floods()], SECONDS)
    print(f"reserved, on the other side: {stays / MBIT:.2f} Mb/s; who lost its path beside it: {others[0] / MBIT:.2f}")
    assert stays >= HELD * MBIT * (1 - TOLERANCE)
    ring.restore(side)
    wait_for(lambda: daemon.requests()[one].startswith("installed by queue"), "its return", FOUND)
    assert hears(listener, "restored", one)
    assert ring.goes_by(queue, SIDES[side]) and ring.goes_by(other, SIDES[free])
    listener.close()
    daemon.do(f"Cancel {one}.", f"Cancel {two}.")


def hears(listener: Talk, event: str, number: int) -> bool:
    """Whether a subscriber is told that of a request; it waits for it."""
    while True:
        (line,) = listener.reply()
        if line.startswith(f"* {event} ") and f" {number} reserve" in line:
            return True
