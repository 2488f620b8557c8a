"""The slow, obvious evaluator: packet x policy tree -> verdict. The oracle of compiler, engine and installed flows.

It follows the text of ovspane(7), section 6, word by word and knows no trick; never make it faster.
"""

from __future__ import annotations

from ovspane.packets.fields import Locations
from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.match import Packet
from ovspane.policy.model.actions import NEUTRAL, Access, Limit, Verdict
from ovspane.policy.model.tree import ROOT, PolicyTree


def evaluate(tree: PolicyTree, packet: Packet, locations: Locations, node: str = ROOT) -> Verdict:
    """The verdict of the subtree at `node` on the packet."""
    here = NEUTRAL
    for request in tree.nodes[node].requests.values():
        if request.flowgroup.contains(packet, locations):
            here = here.d(request.verdict)
    below = NEUTRAL
    for child in tree.nodes[node].children:
        below = below.s(evaluate(tree, packet, locations, child))
    return here.p(below)


def metered(tree: PolicyTree, verdict: Verdict, locations: Locations) -> frozenset[Limit]:
    """The limits of a verdict that need a meter: of those on exactly the same packets only the lowest (of equal ones:
    the first request's), since what stays below it stays below the others."""
    lowest: dict[Flowgroup | None, Limit] = {}
    for limit in sorted(verdict.limits, key=lambda limit: (limit.rate, limit.request)):
        lowest.setdefault(tree.requests[limit.request].flowgroup.resolve(locations), limit)
    return frozenset(lowest.values())


def passes(verdict: Verdict, default_deny: bool = False) -> bool:
    """Whether a packet with this verdict goes on: Allow is the default of the whole tree unless the administrator
    says deny."""
    return verdict.access is Access.ALLOW if default_deny else verdict.access is not Access.DENY
