"""What must hold between a policy tree and the table compiled from it; each function says in words what does not.

`disagreement` asks the slow evaluator, packet by packet. `malformed` rebuilds the table from the tree by brute force,
pair by pair with Match.overlaps, given only which stage each node's denies stand in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ovspane.packets.fields import Locations
from ovspane.packets.match import ANY, Match, Packet
from ovspane.policy.compiler.compile import ABOVE_ROOT, VIRTUAL, Compiler
from ovspane.policy.model.actions import Access
from ovspane.policy.model.table import Effect, FlowTable, Rule, Stage
from ovspane.policy.model.tree import ActiveRequest, PolicyTree
from ovspane.policy.semantics import evaluate, passes


def disagreement(
    table: FlowTable, tree: PolicyTree, where: Locations, packets: Iterable[Packet], default_deny: bool = False
) -> str | None:
    """A packet that the table and the tree decide differently, or None."""
    for packet in packets:
        verdict, outcome = evaluate(tree, packet, where), table.evaluate(packet.packed)
        if outcome.dropped == passes(verdict, default_deny):
            return f"{packet}: {verdict}, but the table says {outcome}"
        # limits and guarantees are compiled apart from access: right for dropped packets too
        rates = decided(table, Stage.LIMIT, packet), decided(table, Stage.QUEUE, packet) or 0
        if rates != (verdict.limit, verdict.guarantee):
            return f"{packet}: {verdict}, but the table gives limit {rates[0]}, guarantee {rates[1]}"
        if not outcome.dropped and (outcome.limit, outcome.guarantee) != rates:
            return f"{packet}: {outcome} is not {rates}"
    return None


def decided(table: FlowTable, stage: Stage, packet: Packet) -> int | None:
    """The rate of the highest rule of a stage that matches."""
    rules = [rule for rule in table.rules.values() if rule.stage is stage and rule.match.contains(packet.packed)]
    return max(rules, key=lambda rule: rule.priority).rate if rules else None


def entries(tree: PolicyTree, where: Locations) -> Iterator[tuple[ActiveRequest, Match]]:
    for request in tree.requests.values():
        resolved = request.flowgroup.resolve(where)
        if resolved is not None:
            for match in resolved.matches():
                yield request, match


def malformed(compiler: Compiler, tree: PolicyTree, where: Locations, default_deny: bool = False) -> str | None:
    """How the table differs from the definition of stages, levels, ranks and owners, or None."""
    expected = _access_rules(compiler, tree, where, default_deny)
    actual = {rule.key: rule for rule in compiler.table.rules.values() if rule.stage is Stage.ACCESS}
    if expected != actual:
        return f"access rules differ: {expected.items() ^ actual.items()}"
    if {rule.index for rule in actual.values()} - set(range(compiler.stages)):
        return f"an access rule stands beyond the {compiler.stages} stages"
    return _rate_fault(compiler.table, tree, where, Stage.LIMIT) or _rate_fault(
        compiler.table, tree, where, Stage.QUEUE
    )


def _access_rules(compiler: Compiler, tree: PolicyTree, where: Locations, default_deny: bool) -> dict[object, Rule]:
    shift = int(default_deny)
    denies = [
        (r.node, tree.nodes[r.node].depth + shift, m, r.id) for r, m in entries(tree, where) if _says(r, Access.DENY)
    ]
    denies += [(ABOVE_ROOT, 0, ANY, VIRTUAL)] if default_deny else []
    stage_of = compiler.deny_stages
    rules: dict[object, Rule] = {}

    def put(stage: int, priority: int, match: Match, effect: Effect, owner: int) -> None:
        rule = Rule(Stage.ACCESS, stage, priority, match, effect, owner)
        if rule.key not in rules or rules[rule.key].request > owner:
            rules[rule.key] = rule

    for node, depth, match, owner in denies:
        put(stage_of[node], 2 * depth + 1, match, Effect.DROP, owner)
    for request, match in entries(tree, where):
        if not _says(request, Access.ALLOW):
            continue
        above = {*tree.ancestors(request.node), ABOVE_ROOT}
        met = [(node, depth) for node, depth, other, _ in denies if other.overlaps(match)]
        for stage in range(compiler.stages):
            levels = [depth for node, depth in met if node in above and stage_of[node] == stage]
            if levels:
                put(stage, 2 * max(levels) + 2, match, Effect.CONTINUE, request.id)
    return rules


def _says(request: ActiveRequest, access: Access) -> bool:
    return request.verdict.access is access


def _rate_fault(table: FlowTable, tree: PolicyTree, where: Locations, stage: Stage) -> str | None:
    wanted: dict[tuple[Match, int], ActiveRequest] = {}
    for request, match in entries(tree, where):
        rate = request.verdict.limit if stage is Stage.LIMIT else request.verdict.guarantee
        if rate and (found := wanted.get((match, rate), request)).id >= request.id:
            wanted[match, rate] = request if request.id <= found.id else found
    rules = [rule for rule in table.rules.values() if rule.stage is stage]
    if {(rule.match, rule.rate): (rule.request, rule.slot) for rule in rules} != {
        key: (request.id, request.slot) for key, request in wanted.items()
    } or len(rules) != len(wanted):
        return f"the rules of stage {stage.name} are not those of the requests"
    labels = sorted({(rule.priority, rule.rate) for rule in rules})
    rates = [rate for _, rate in labels]
    if len({priority for priority, _ in labels}) < len(labels) or len(set(rates)) < len(rates):
        return f"two rates share a priority, or one has two, in stage {stage.name}"
    if rates != sorted(rates, reverse=stage is Stage.LIMIT) or any(not 1 <= label <= 65_000 for label, _ in labels):
        return f"the priorities of stage {stage.name} are not in the order of the rates"
    return None
