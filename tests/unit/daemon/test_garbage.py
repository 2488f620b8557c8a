"""Garbage collection: cycles go while they are few, and what is resident is set aside."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from ovspane.daemon import garbage


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Cycle:
    def __init__(self) -> None:
        self.me = self


def test_cycles_are_collected_while_there_is_little() -> None:
    gc.freeze()  # what other tests left
    cycle = Cycle()
    gone = weakref.ref(cycle)
    for _ in range(3):
        gc.collect(1)  # it grows old
    del cycle
    gc.collect(1)
    assert gone() is not None
    assert garbage.collect_or_freeze() <= garbage.SMALL
    assert gone() is None


def test_what_is_resident_is_set_aside() -> None:
    resident = [[i] for i in range(2 * garbage.SMALL)]
    for _ in range(3):
        gc.collect(1)
    assert garbage.collect_or_freeze() > garbage.SMALL
    assert len(gc.get_objects(generation=2)) < garbage.SMALL
    assert gc.get_freeze_count() > len(resident)


def test_loading_sets_aside_what_it_made() -> None:
    with garbage.paused_while_loading():
        assert not gc.isenabled()
        made = [[i] for i in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(made)
    assert gc.get_threshold() == garbage.THRESHOLDS
