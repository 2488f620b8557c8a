"""The slow, obvious evaluator: packet x policy tree -> verdict. The oracle of compiler, engine and installed flows.

It follows the text of ovspane(7), section 6, word by word and knows no trick; never make it faster.
"""

from __future__ import annotations

from ovspane.packets.fields import Locations
from ovspane.packets.match import Packet
from ovspane.policy.model.actions import NEUTRAL, Access, Verdict
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


def passes(verdict: Verdict, default_deny: bool = False) -> bool:
    """Whether a packet with this verdict goes on: Allow is the default of the whole tree unless the administrator
    says deny."""
    return verdict.access is Access.ALLOW if default_deny else verdict.access is not Access.DENY
