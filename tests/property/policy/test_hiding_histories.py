"""Hiding along random histories of policy trees: what is visible decides as the evaluator, on paper and on a real
switch.
"""

from __future__ import annotations

import asyncio

import pytest

from ovspane.placement.pipeline import FlowPlan, Pipeline
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.hiding import Hiding
from tests.property.policy.test_trace_oracle import (
    bring,
    expected,
    traceable,
    traced,
)
from tests.support import workload
from tests.support.hiding import Watched
from tests.support.oracle import disagreement
from tests.support.ovs_dummy import DummyOvs
from tests.support.workload import History


def run_history(seed: int, count: int = 8) -> str | None:
    history = History.start(seed)
    default_deny = history.rng.random() < 0.25
    compiler, watched = Compiler(history.tree, default_deny), Watched()
    for number in range(10):
        delta = compiler.update(history.step(), history.where)
        packets = workload.packets(history.rng, history.tree, history.where, count)
        fault = watched.step(delta, [packet.packed for packet in packets])
        fault = fault or disagreement(watched.built, history.tree, history.where, packets, default_deny)
        if fault:
            return f"seed {seed}, step {number}: {fault}"
    return None


@pytest.mark.parametrize("batch", range(10))
def test_random_histories(batch: int) -> None:
    for seed in range(batch * 20, (batch + 1) * 20):
        assert run_history(seed) is None


def test_the_switch_decides_as_the_evaluator(ovs: DummyOvs) -> None:
    """Only the visible flows are installed; ofproto/trace still says what the tree says."""
    packets_seen = hidden = 0
    for seed in range(14):
        history = History.start(9_000 + seed)
        compiler, plan, layer = Compiler(history.tree), FlowPlan(Pipeline()), Hiding()
        for step in range(5):
            for _ in range(3):
                plan.apply(layer.update(compiler.update(history.step(), history.where)), compiler.stages)
            asyncio.run(bring(ovs, plan))
            hidden += len(compiler.table.rules) - len(layer.visible.rules)
            for packet in filter(traceable, workload.packets(history.rng, history.tree, history.where, 16)):
                want = expected(history.tree, packet, history.where)
                assert traced(ovs, plan, packet) == want, f"seed {seed}, step {step}: {packet}"
                packets_seen += 1
    assert packets_seen > 500
    assert hidden > 100
    print(f"ofproto/trace: {packets_seen} packets, {hidden} flows hidden")
