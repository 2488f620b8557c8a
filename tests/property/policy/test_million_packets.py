"""A million packets: compiled tables against the slow evaluator, always the same ones.

The oracle is policy.semantics, word by word; only the table is evaluated in a quicker way than Table.evaluate (which
test_compile uses): the rules of a stage by falling priority, the first that matches decides. The time goes into the
oracle, about 50 us a packet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets.match import Packet
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.model.actions import Access
from ovspane.policy.model.table import Effect, Rule, Rules, Stage
from ovspane.policy.model.tree import TreeDelta
from ovspane.policy.semantics import evaluate, metered, passes
from tests.support import workload

PACKETS = 1_000_000
BATCHES = 20
#: packets of one tree: so many corners, each with so many variants
CORNERS, VARIANTS = 100, 9


def test_enough_is_sent() -> None:
    assert PACKETS % (BATCHES * CORNERS * (1 + VARIANTS)) == 0


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_million_packets(batch: int) -> None:
    seen: Counter[str] = Counter()
    trees = PACKETS // BATCHES // CORNERS // (1 + VARIANTS)
    for seed in range(batch * trees, (batch + 1) * trees):
        for kind in _compared(Random(seed), seed):
            seen.update(kind)
    assert seen["all"] == PACKETS // BATCHES
    shares = {kind: count / seen["all"] for kind, count in seen.items()}
    print(shares)
    # the verdicts vary, so that a table that says nothing, or always the same, is noticed
    assert 0.2 < shares["denied"] < 0.6
    assert shares["allowed"] > 0.2
    assert shares["limited"] > 0.1
    assert shares["limited twice"] > 0.005
    assert shares["guaranteed"] > 0.1


def _compared(rng: Random, seed: int) -> Iterator[list[str]]:
    """Compile one random tree and compare its packets; what each was."""
    wide = workload.wide(rng)
    tree, where = workload.shares(rng, rng.randint(2, 8) + 2 * wide), workload.locations(rng)
    nodes = sorted(tree.nodes)
    requests = [workload.request(rng, number, rng.choice(nodes), wide) for number in range(1, rng.randint(8, 20))]
    # else most is denied
    kept = (request for request in requests if request.kind is not Kind.DENY or rng.random() < 0.3)
    tree.apply(TreeDelta(added=tuple(kept)))
    default_deny = rng.random() < 0.1
    compiler = Compiler(tree, default_deny)
    compiler.update(workload.whole(tree), where)
    access, metering, queues = _by_stage(compiler.table)
    for packet in _packets(rng, tree, where):
        verdict, packed = evaluate(tree, packet, where), packet.packed
        dropped = any(
            found is not None and found.effect is Effect.DROP for found in (_first(rules, packed) for rules in access)
        )
        limits = [(rule.request, rule.rate) for rules in metering if (rule := _first(rules, packed)) is not None]
        queue = _first(queues, packed)
        rates = (sorted(limits), queue.rate if queue else 0)
        wanted = (sorted(metered(tree, verdict, where)), verdict.guarantee)
        if dropped == passes(verdict, default_deny) or rates != wanted:
            pytest.fail(
                f"seed {seed}: {packet}: {verdict}, but the table says dropped: {dropped}, limits and guarantee {rates}"
            )
        yield [
            "all",
            "denied" if dropped else "passed",
            "allowed" if verdict.access is Access.ALLOW else "",
            "limited" if limits else "",
            "limited twice" if len(limits) > 1 else "",
            "guaranteed" if queue else "",
        ]


def _by_stage(table: Rules) -> tuple[list[list[Rule]], list[list[Rule]], list[Rule]]:
    """The rules of each access stage, of each limit stage and of the queues, highest priority first."""
    stages: dict[tuple[Stage, int], list[Rule]] = {}
    for rule in sorted(table.rules.values(), key=lambda rule: -rule.priority):
        stages.setdefault((rule.stage, rule.index), []).append(rule)
    queues = stages.pop((Stage.QUEUE, 0), [])
    access, limits = (
        [rules for (stage, _), rules in stages.items() if stage is kind] for kind in (Stage.ACCESS, Stage.LIMIT)
    )
    return access, limits, queues


def _first(rules: list[Rule], packet: int) -> Rule | None:
    for rule in rules:
        match = rule.match
        if packet & match.mask == match.value:
            return rule
    return None


def _packets(rng: Random, tree: Any, where: Any) -> Iterator[Packet]:
    """Packets at the corners of the requests, and each again with one or two fields of another one."""
    corners = workload.packets(rng, tree, where, CORNERS)
    for packet in corners:
        yield packet
        for _ in range(VARIANTS):
            other = rng.choice(corners)
            field = rng.choice(("src", "dst", "dport", "sport", "proto", "dscp", "vlan"))
            if packet.eth_type != other.eth_type and field in ("src", "dst"):
                field = "vlan"
            second = rng.choice(("dport", "dscp", "eth_src"))
            changed = replace(packet, **{field: getattr(other, field), second: getattr(other, second)})
            yield changed if changed.proto in (6, 17, 132) else replace(changed, sport=0, dport=0)
