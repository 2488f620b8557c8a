"""The policy as the daemon tells it (ListShares, ListRequests, Show of users, in JSON), and what it says of a packet.

The picture is that of the instant of ListRequests. It must be asked as root: others see a part of the requests only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovspane.lang.parser import parse
from ovspane.lang.statements import Explain, Kind
from ovspane.lang.units import BitsPerSecond
from ovspane.packets.fields import AddressSet, Locations
from ovspane.packets.flowgroup import Flowgroup, overlap
from ovspane.packets.match import BITS, Packet
from ovspane.packets.overlap import MatchIndex
from ovspane.policy.model.actions import Access
from ovspane.policy.model.tree import ROOT, ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.semantics import evaluate, metered, passes
from ovspane.policy.state.request_index import hull, located
from ovspane.policy.state.status import Condition, Status, read_fields

Item = dict[str, Any]
#: A statement without its dot -> the items of its answer.
Ask = Callable[[str], list[Item]]


class OracleUnavailable(Exception):
    """The daemon's answers do not make a whole policy; the text says why."""


@dataclass(frozen=True, slots=True)
class ExpectedVerdict:
    """What shall become of a packet. `queues`: the slots of the requests any of which may give it its queue, `limits`:
    of those whose meters it passes, each once; with the rate (bit/s); empty: none. `by`: the requests that speak of
    it; `elsewhere`: those that do so on other bridges only, or before it comes here. `outputs`: of those queues, the
    OpenFlow port by which the packet is sent; else the bridge chooses."""

    passes: bool
    queues: Mapping[int, BitsPerSecond]
    limits: Mapping[int, BitsPerSecond]
    by: tuple[int, ...]
    elsewhere: tuple[int, ...] = ()
    outputs: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyOracle:
    """`index` finds the requests that may speak of a packet, so that each packet need not be held against all of
    them. `paths`: by which their packets are sent (`policy.state.capacity`), of those reservations of which that is
    so."""

    tree: PolicyTree
    locations: Locations
    default_deny: bool
    pending: frozenset[int]
    index: MatchIndex
    statuses: dict[int, Status]
    paths: dict[int, str]

    def expected(self, packet: Packet) -> ExpectedVerdict:
        """The oracle's word on a packet, for the network as one switch."""
        return self.judged(packet, self.matching(packet))

    def matching(self, packet: Packet) -> list[ActiveRequest]:
        """The requests that speak of a packet."""
        near = self.index.overlapping(packet.packed, (1 << BITS) - 1)
        return [r for r in map(self.tree.requests.__getitem__, near) if r.flowgroup.contains(packet, self.locations)]

    def judged(self, packet: Packet, matching: Sequence[ActiveRequest]) -> ExpectedVerdict:
        """The oracle's word on a packet if there were only these requests, which all speak of it."""
        tree = self._only(matching)
        verdict = evaluate(tree, packet, self.locations)
        if not passes(verdict, self.default_deny):
            return ExpectedVerdict(False, {}, {}, tuple(r.id for r in matching if r.verdict.access is Access.DENY))
        queues = {r.slot: r.rate for r in matching if r.kind is Kind.RESERVE and r.rate == verdict.guarantee}
        limits = {tree.requests[limit.request].slot: limit.rate for limit in metered(tree, verdict, self.locations)}
        return ExpectedVerdict(True, queues, limits, tuple(r.id for r in matching))

    def _only(self, requests: Iterable[ActiveRequest]) -> PolicyTree:
        """The tree with these requests alone: who does not speak of a packet does not count for it."""
        tree = PolicyTree()
        for request in requests:
            chain = [request.node, *self.tree.ancestors(request.node)]
            for name in reversed(chain):
                if name not in tree.nodes:
                    parent = self.tree.nodes[name].parent
                    assert parent is not None
                    tree.add_node(name, parent)
            tree.apply(TreeDelta(added=(request,)))
        return tree

    def around(self, group: Flowgroup, most: int) -> list[Flowgroup]:
        """The flowgroup, and the parts of the active requests' that lie in it, of at most so many requests."""
        match = hull(located(group, self.locations))
        near = sorted(self.index.overlapping(match.value, match.mask))
        parts = {group: None}
        for number in near[:: max(1, -(-len(near) // most))]:
            other = self.tree.requests[number].flowgroup
            if overlap(other, group, self.locations):
                parts[other.intersect(group) or other] = None
        return list(parts)


def read_oracle(ask: Ask, default_deny: bool) -> PolicyOracle:
    """Ask for the policy. Raises NoPicture."""
    tree = PolicyTree()
    allows: dict[str, bool] = {}
    for share in ask("ListShares"):
        name, parent = str(share["name"]), share.get("parent")
        if name != ROOT and parent not in allows:
            raise OracleUnavailable("the speaker does not see all shares; ask as root")
        allows[name] = "allow = True" in str(share["privileges"])
        if name != ROOT:
            tree.add_node(name, str(parent))
    requests, pending, statuses, paths = [], set(), {}, {}
    for item in ask("ListRequests"):
        if item["kind"] == "hint" or not item["active"]:
            continue
        if item["share"] not in allows:
            raise OracleUnavailable(f"share {item['share']} was made meanwhile")
        request = _request(item, allows)
        requests.append(request)
        status = statuses[request.id] = read_fields(item)
        if "path" in item:
            paths[request.id] = str(item["path"])
        if status.condition is Condition.PENDING:
            pending.add(request.id)
    tree.apply(TreeDelta(added=tuple(requests)))
    users = {user for request in requests for user in request.flowgroup.users()}
    locations, index = _locations(ask, users), MatchIndex()
    for request in requests:
        match = hull(located(request.flowgroup, locations))
        index.add(request.id, match.value, match.mask)
    return PolicyOracle(tree, locations, default_deny, frozenset(pending), index, statuses, paths)


def _request(item: Item, allows: dict[str, bool]) -> ActiveRequest:
    kind = Kind(item["kind"])
    may = allows[str(item["share"])] if kind is Kind.RESERVE else kind is Kind.ALLOW
    group = flowgroup(str(item["flowgroup"]))
    rate = BitsPerSecond(int(item.get("rate", 0)))
    return ActiveRequest(int(item["id"]), str(item["share"]), kind, group, rate, may, int(item.get("slot", 0)))


def flowgroup(text: str) -> Flowgroup:
    """A flowgroup as the language writes it. Raises SyntaxFault, Contradiction."""
    statement = parse(f"Explain{text if text.startswith('(') else f'({text})'}.")
    assert isinstance(statement, Explain)
    return statement.flowgroup


def _locations(ask: Ask, users: Iterable[str]) -> dict[str, AddressSet]:
    found = {}
    for user in sorted(users):
        for item in ask(f"Show {user}"):
            addresses = [text.strip() for text in str(item.get("at", "")).strip("{}").split(",") if text.strip()]
            if addresses:
                found[user] = AddressSet.parse(*addresses)
    return found
