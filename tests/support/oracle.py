"""What must hold between a policy tree and the table compiled from it; each function says in words what does not.

`disagreement` asks the slow evaluator, packet by packet. `malformed` rebuilds the table from the tree by brute force,
pair by pair with Match.overlaps, given only which stage each node's denies stand in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ovspane.packets.fields import Locations
from ovspane.packets.match import ANY, Match, Packet
from ovspane.policy.compiler.compile import ABOVE_ROOT, VIRTUAL, Compiler
from ovspane.policy.compiler.limit_stages import narrowness
from ovspane.policy.model.actions import Access, Limit
from ovspane.policy.model.table import Effect, FlowTable, Rule, Rules, Stage
from ovspane.policy.model.tree import ActiveRequest, PolicyTree
from ovspane.policy.semantics import evaluate, metered, passes


def disagreement(
    table: FlowTable, tree: PolicyTree, where: Locations, packets: Iterable[Packet], default_deny: bool = False
) -> str | None:
    """A packet that the table and the tree decide differently, or None."""
    for packet in packets:
        verdict, outcome = evaluate(tree, packet, where), table.evaluate(packet.packed)
        if outcome.dropped == passes(verdict, default_deny):
            return f"{packet}: {verdict}, but the table says {outcome}"
        # limits and guarantees are compiled apart from access: right for dropped packets too
        limits, guarantee = passed(table, packet), guaranteed(table, packet)
        if guarantee != verdict.guarantee or sorted(limits) != sorted(metered(tree, verdict, where)):
            return f"{packet}: {verdict}, but the table gives limits {limits}, guarantee {guarantee}"
        if not outcome.dropped and (list(outcome.limits), outcome.guarantee) != (limits, guarantee):
            return f"{packet}: {outcome} is not {limits}, {guarantee}"
    return None


def _decisive(table: Rules, packet: Packet) -> dict[tuple[Stage, int], Rule]:
    """The highest rule of each stage that matches."""
    found: dict[tuple[Stage, int], Rule] = {}
    for rule in sorted(table.rules.values(), key=lambda rule: rule.priority):
        if rule.match.contains(packet.packed):
            found[rule.stage, rule.index] = rule
    return found


def passed(table: Rules, packet: Packet) -> list[Limit]:
    """The limits whose meters a packet passes if nothing drops it, in this order."""
    rules = sorted((at[1], rule) for at, rule in _decisive(table, packet).items() if at[0] is Stage.LIMIT)
    return [Limit(rule.request, rule.rate) for _, rule in rules]


def guaranteed(table: Rules, packet: Packet) -> int:
    """The guarantee that it gets if nothing drops it."""
    rule = _decisive(table, packet).get((Stage.QUEUE, 0))
    return rule.rate if rule else 0


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
    return _limit_fault(compiler.table, tree, where) or _guarantee_fault(compiler.table, tree, where)


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


def _limit_fault(table: Rules, tree: PolicyTree, where: Locations) -> str | None:
    """Stages by the definition (limit_stages): one more than the greatest of the narrower limits that share packets."""
    matches: dict[int, list[Match]] = {}
    for request, match in entries(tree, where):
        if request.verdict.limits:
            matches.setdefault(request.id, []).append(match)
    groups: dict[tuple[Match, ...], list[ActiveRequest]] = {}
    for number, of_it in matches.items():
        groups.setdefault(tuple(sorted(of_it)), []).append(tree.requests[number])
    stages: dict[tuple[Match, ...], int] = {}
    wanted = set()
    for group in sorted(groups, key=narrowness):
        below = [stage for other, stage in stages.items() if any(a.overlaps(b) for a in group for b in other)]
        stages[group] = 1 + max(below, default=-1)
        owner = min(groups[group], key=lambda request: (request.rate, request.id))
        wanted |= {(stages[group], match, owner.id, owner.slot, owner.rate) for match in group}
    rules = [rule for rule in table.rules.values() if rule.stage is Stage.LIMIT]
    found = {(rule.index, rule.match, rule.request, rule.slot, rule.rate) for rule in rules}
    if found != wanted or len(rules) != len(wanted):
        return f"the limits stand at {found - wanted} instead of {wanted - found}"
    if any(not 1 <= rule.priority < 0xFFFF for rule in rules):
        return "a limit has a priority that is not its own"
    return None


def _guarantee_fault(table: Rules, tree: PolicyTree, where: Locations) -> str | None:
    wanted: dict[tuple[Match, int], ActiveRequest] = {}
    for request, match in entries(tree, where):
        rate = request.verdict.guarantee
        if rate and (found := wanted.get((match, rate), request)).id >= request.id:
            wanted[match, rate] = request if request.id <= found.id else found
    rules = [rule for rule in table.rules.values() if rule.stage is Stage.QUEUE]
    if {(rule.match, rule.rate): (rule.request, rule.slot) for rule in rules} != {
        key: (request.id, request.slot) for key, request in wanted.items()
    } or len(rules) != len(wanted):
        return "the rules of the queue stage are not those of the requests"
    labels = sorted({(rule.priority, rule.rate) for rule in rules})
    rates = [rate for _, rate in labels]
    if len({priority for priority, _ in labels}) < len(labels) or len(set(rates)) < len(rates):
        return "two rates share a priority, or one has two, in the queue stage"
    if rates != sorted(rates) or any(not 1 <= label <= 65_000 for label, _ in labels):
        return "the priorities of the queue stage are not in the order of the rates"
    return None
