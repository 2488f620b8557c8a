"""A plan kept by deltas is the plan made anew, whatever order a delta has, also when slots go from one request to
another in it: meters, guarantees, and which of them makes each request hold."""

from __future__ import annotations

from random import Random

import pytest

from ovspane.packets.match import Match
from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage, TableDelta

SLOTS, PORTS = 4, 6


def table(rng: Random) -> list[Rule]:
    """Rules of new and old requests; each slot is one request's."""
    rules = []
    for slot in range(1, SLOTS + 1):
        if rng.random() < 0.3:
            continue
        owner = 10 * slot + rng.randrange(3)  # one of three requests has it; the rate is the request's
        stage, effect = (Stage.LIMIT, Effect.LIMIT) if slot % 2 else (Stage.QUEUE, Effect.QUEUE)
        rules += [
            Rule(stage, 0, 7, Match.of(eth_type=0x800, ip_proto=17, tp_dst=port), effect, owner, slot, 1000 * owner)
            for port in rng.sample(range(PORTS), rng.randint(1, 3))
        ]
    return list({rule.key: rule for rule in rules}.values())


def delta(rng: Random, old: FlowTable, new: list[Rule]) -> TableDelta:
    wanted = {rule.key: rule for rule in new}
    added = [rule for key, rule in wanted.items() if old.rules.get(key) != rule]
    removed = [rule for key, rule in old.rules.items() if key not in wanted]
    rng.shuffle(added)
    rng.shuffle(removed)
    return TableDelta(tuple(added), tuple(removed))


@pytest.mark.parametrize("conjunction", [False, True])
@pytest.mark.parametrize("seed", range(50))
def test_kept_by_deltas_or_made_anew(seed: int, conjunction: bool) -> None:
    rng = Random(seed)
    whole, plan = FlowTable(), FlowPlan(Pipeline(), conjunction=conjunction)
    for _ in range(20):
        change = delta(rng, whole, table(rng))
        whole.apply(change)
        plan.apply(change, 1)
        wanted = FlowPlan(Pipeline(), conjunction=conjunction)
        wanted.apply(TableDelta(tuple(whole.rules.values())), 1)
        assert plan.meters == wanted.meters
        assert plan.guarantees == wanted.guarantees
        assert plan.enforcers == wanted.enforcers
        requests = {rule.request for rule in whole.rules.values()}
        assert plan.enforcers.keys() == requests, "of each request that has a rate, and of nobody else"
