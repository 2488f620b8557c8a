"""The index of accepted requests never misses one: `near` gives all that `flowgroup.overlap` says meet."""

from __future__ import annotations

from random import Random

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets.flowgroup import Flowgroup, overlap
from ovspane.policy.state import request_index as nearby
from ovspane.policy.state.request_index import RequestIndex, hull, located
from ovspane.policy.state.shares import Request
from tests.support import workload

ROUNDS = 60


def _requests(rng: Random, count: int) -> list[Request]:
    kinds = (Kind.ALLOW, Kind.DENY, Kind.RESERVE, Kind.RATELIMIT)
    return [
        Request(i, "rootShare", "root", rng.choice(kinds), workload.flowgroup(rng, workload.wide(rng)), 0, None)
        for i in range(1, count + 1)
    ]


def _missed(seed: int) -> list[tuple[Flowgroup, Request]]:
    """(asked, request) pairs that meet and that the index did not give, over a history of puts, drops and moves."""
    rng = Random(seed)
    index, requests, where = RequestIndex(), _requests(rng, 30), workload.locations(rng)
    for request in requests:
        index.put(request, where)
    missed = []
    for _ in range(4):
        for request in rng.sample(requests, 5):
            index.drop(request.id)
            if rng.random() < 0.7:
                index.put(request, where)
            else:
                requests.remove(request)
        old, where = where, workload.locations(rng)
        for user in old.keys() | where.keys():
            index.move_user(user, where)
        for asked in [workload.flowgroup(rng, workload.wide(rng)) for _ in range(10)]:
            given = {request.id for request in index.overlapping(asked, where, Kind)}
            missed += [(asked, r) for r in requests if r.id not in given and overlap(asked, r.flowgroup, where)]
    return missed


def test_near_gives_all_that_overlap() -> None:
    assert [pair for seed in range(ROUNDS) for pair in _missed(seed)] == []


def test_it_would_notice_a_hull_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearby, "_common_prefix", lambda values, width: (values.spans[0][0], (1 << width) - 1))
    assert any(_missed(seed) for seed in range(ROUNDS))


def test_packets_of_a_flowgroup_are_in_its_hull() -> None:
    rng = Random(7)
    for _ in range(2000):
        group = located(workload.flowgroup(rng, workload.wide(rng)), workload.locations(rng))
        if not group.users():
            assert hull(group).contains(workload.sample(rng, group).packed)
