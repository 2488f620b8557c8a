"""The flow tables of one bridge, as sets of packets go through them: lookup, actions, what NORMAL does. Pure.

Sources: OpenFlow 1.4.1 section 5 (lookup by priority, instructions), ovs-actions(7) (resubmit, conjunction, NORMAL),
Open vSwitch lib/classifier.c for conjunctions: the hard match of the highest priority is found first, then the complete
conjunctions above it, from the highest priority down; for the first of them the table is looked up again with its
conj_id and without clauses, and if that finds anything at all it is the answer. Where conjunctions of one priority
overlap, any may be meant; here it is the lowest number.

Fragments are walked by themselves, as `Pieces`: the headers in a set are those of the datagram, and a flow's match is
what it is for such a piece (dataplane.fragments). So are packets that their port put into a VLAN: the headers have it.

The registers, the conj_id and the port that a packet came in by are known numbers at each step, so only headers are in
the sets. A flow that matches anything else is a doubt, not an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

from ovspane.dataplane.fragments import Pieces, bare, seen
from ovspane.dataplane.regions import Region, exclude, product, restrict
from ovspane.packets.match import ANY, LAYOUT, Match
from ovspane.packets.overlap import MatchIndex

#: OpenFlow's reserved ports in their 16-bit form (OpenFlow 1.0, 5.2.1)
IN_PORT, NORMAL, FLOOD, ALL, CONTROLLER, LOCAL = 0xFFF8, 0xFFFA, 0xFFFB, 0xFFFC, 0xFFFD, 0xFFFE
RESERVED = 0xFF00
#: how deep and how often a packet may go back to the tables (ovs-actions(7), resubmit)
DEPTH, RESUBMITS = 64, 4096
#: bridge protocols: never forwarded by NORMAL (IEEE 802.1Q, 8.6.3; ovs-vswitchd.conf.db(5), forward-bpdu)
BRIDGE_GROUP = Match.of(eth_dst=(0x0180C2000000, 0xFFFFFFFFFFF0))


@dataclass(frozen=True, slots=True)
class Output:
    """Send by a port, maybe a reserved one."""

    port: int


@dataclass(frozen=True, slots=True)
class SetQueue:
    """Put what is sent from here on into a queue of its port."""

    queue: int


@dataclass(frozen=True, slots=True)
class SetRegister:
    """Set the bits of a register that are in the mask."""

    register: int
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Look the packet up in a table, and go on with the next action."""

    table: int


@dataclass(frozen=True, slots=True)
class Track:
    """Look the packet up in a table as connection tracking gives it back; nothing of that comes back to this flow."""

    table: int


@dataclass(frozen=True, slots=True)
class Untrack:
    """Forget what connection tracking found."""


@dataclass(frozen=True, slots=True)
class ApplyMeter:
    """Drop what exceeds the meter's rate; the rest goes on."""

    meter: int


@dataclass(frozen=True, slots=True)
class Clause:
    """conjunction(number, k/n)"""

    number: int
    k: int
    n: int


@dataclass(frozen=True, slots=True)
class Punt:
    """A copy to a controller: nothing of it comes back."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that is not understood here."""

    what: str


Action = Output | SetQueue | SetRegister | Resubmit | Track | Untrack | ApplyMeter | Clause | Punt | Unknown


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow as the switch has it. `match` is of headers; `in_port`, `registers` (number, value, mask) and `conj_id`
    are beside it, and so is `state`: what it says of fragments and tracked packets (packets.match). `datagram`:
    protocol and ports in the match are those that connection tracking found. `beyond`: what else it matches, that is
    not understood here."""

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...] = ()
    goto: int | None = None
    cookie: int = 0
    in_port: int | None = None
    registers: tuple[tuple[int, int, int], ...] = ()
    conj_id: int | None = None
    beyond: str = ""
    state: Match = ANY
    datagram: bool = False

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """The clauses of conjunctions that its match is."""
        return tuple(action for action in self.actions if isinstance(action, Clause))


@dataclass(frozen=True, slots=True)
class PortState:
    """`passes`: up, and no spanning tree blocks it. `floods`: no NO_FLOOD."""

    number: int
    name: str = ""
    passes: bool = True
    floods: bool = True


@dataclass(frozen=True, slots=True)
class Out:
    """A copy that leaves. `flooded`: because nobody knows where its destination is."""

    port: int
    queue: int | None
    flooded: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what came in, and what becomes of it. `flow`: the last that it met. `why`: without outputs, the
    reason; None: it went to a controller. `doubts`: what was not understood on its way."""

    packets: Region
    outputs: tuple[Out, ...] = ()
    meters: tuple[int, ...] = ()
    flow: Flow | None = None
    why: str | None = None
    doubts: tuple[tuple[str, Flow], ...] = ()


@dataclass(frozen=True, slots=True)
class _State:
    """What a packet carries from flow to flow."""

    into: int
    registers: Mapping[int, int] = field(default_factory=dict)
    queue: int | None = None
    depth: int = 0
    visits: int = 0
    pieces: Pieces = Pieces.WHOLE
    tracked: bool = False
    bare: int = 0


_Step = tuple[_State, Part]


class BridgeTables:
    """One bridge. `learnt`: (VLAN, MAC) -> port, of its learning table. `left_out`: flows that it has besides, in
    text; `gathers`: connection tracking gives a datagram back in one piece."""

    def __init__(
        self,
        flows: Iterable[Flow],
        ports: Iterable[PortState],
        learnt: Mapping[tuple[int, int], int],
        left_out: Iterable[str] = (),
        gathers: bool = False,
    ) -> None:
        self.left_out = tuple(left_out)
        by_table: dict[int, list[Flow]] = {}
        for flow in flows:
            by_table.setdefault(flow.table, []).append(flow)
        self.flows = by_table
        self.gathers = gathers
        self._views: dict[tuple[Pieces, bool, int], dict[int, _Table]] = {}
        self.ports = {port.number: port for port in ports}
        self._learnt = [(_address(*who), port) for who, port in sorted(learnt.items())]

    def forward(self, into: int, packets: Region, pieces: Pieces = Pieces.WHOLE, vlan: int = 0) -> Iterator[Part]:
        """What becomes of packets, or of such pieces of them, that come in by a port. `vlan`: they are all in this one,
        and have no tag of it. The parts are disjoint and together all of them. Raises BudgetSpent."""
        for _, part in self._table(0, _State(into, pieces=pieces, bare=vlan), Part(packets, why="no flow matches")):
            yield part

    def _seen(self, number: int, state: _State) -> _Table | None:
        """A table as such packets see it; None: it is empty."""
        view = self._views.setdefault((state.pieces, state.tracked, state.bare), {})
        if number not in view and number in self.flows:
            matches = (
                (flow, seen(match, flow.state, flow.datagram, state.pieces, state.tracked))
                for flow in self.flows[number]
                if (match := bare(flow.match, state.bare)) is not None
            )
            view[number] = _Table([replace(flow, match=match) for flow, match in matches if match is not None])
        return view.get(number)

    # --- tables and actions

    def _table(self, number: int, state: _State, part: Part) -> Iterator[_Step]:
        if state.depth > DEPTH or state.visits > RESUBMITS:
            yield state, replace(_doubted(part, "goes round in the tables"), why="too many resubmits")
            return
        state = replace(state, visits=state.visits + 1)
        table = self._seen(number, state)
        if table is None:
            yield state, replace(part, why=f"table {number} is empty")
            return
        for hit, flow, doubts in table.lookup(part.packets, state.into, state.registers):
            here = replace(part, packets=hit, doubts=part.doubts + doubts)
            if flow is None:
                yield state, replace(here, why=f"no flow of table {number} matches")
                continue
            here = replace(here, flow=flow, why="dropped")
            for after, done in self._act(flow, 0, state, here):
                if flow.goto is None:
                    yield after, done
                else:
                    yield from self._table(flow.goto, after, done)

    def _act(self, flow: Flow, at: int, state: _State, part: Part) -> Iterator[_Step]:
        """From the action at that place on."""
        while at < len(flow.actions):
            action = flow.actions[at]
            at += 1
            match action:
                case SetQueue(queue):
                    state = replace(state, queue=queue)
                case SetRegister(register, value, mask):
                    kept = state.registers.get(register, 0) & ~mask
                    state = replace(state, registers={**state.registers, register: kept | value & mask})
                case ApplyMeter(meter):
                    part = replace(part, meters=(*part.meters, meter))
                case Untrack():
                    state = replace(state, tracked=False)
                case Punt():
                    part = replace(part, why=None)
                case Clause():
                    pass  # without the others it does nothing
                case Unknown(what):
                    part = _doubted(part, what)
                case Output(port):
                    for sent in self._output(port, state, part):
                        yield from self._act(flow, at, state, sent)
                    return
                case Resubmit(table):
                    for after, done in self._table(table, replace(state, depth=state.depth + 1), part):
                        yield from self._act(flow, at, replace(after, depth=state.depth), done)
                    return
                case Track(table):
                    pieces = Pieces.WHOLE if self.gathers else state.pieces
                    seen_so = replace(state, depth=state.depth + 1, pieces=pieces, tracked=True)
                    for _, done in self._table(table, seen_so, part):
                        yield from self._act(flow, at, state, done)
                    return
        yield state, part

    def _output(self, port: int, state: _State, part: Part) -> Iterator[Part]:
        if port == NORMAL:
            yield from self._normal(state, part)
        elif port in (FLOOD, ALL):
            yield self._flood(state, part, port == ALL)
        elif port == IN_PORT:
            yield self._send(state.into, state, part)
        elif port == CONTROLLER:
            yield replace(part, why=None)
        elif port == state.into:  # never back, but by in_port (ovs-actions(7), output)
            yield replace(part, why="to the port that it came in by")
        elif port >= RESERVED and port != LOCAL:
            yield _doubted(part, f"output to {port:#x}")
        else:
            yield self._send(port, state, part)

    def _send(self, port: int, state: _State, part: Part, flooded: bool = False) -> Part:
        return replace(part, outputs=(*part.outputs, Out(port, state.queue, flooded)))

    def _flood(self, state: _State, part: Part, everywhere: bool = False) -> Part:
        for number, port in sorted(self.ports.items()):
            if number != state.into and port.passes and (port.floods or everywhere):
                part = self._send(number, state, part, True)
        return part if part.outputs else replace(part, why="flooded to no port")

    def _normal(self, state: _State, part: Part) -> Iterator[Part]:
        """As a learning switch (ovs-actions(7), NORMAL): to the port where the destination was learnt, or to all
        that flood."""
        if (group := restrict(part.packets, BRIDGE_GROUP)) is not None:
            yield replace(part, packets=group, why="NORMAL drops bridge protocols")
        left = exclude(part.packets, BRIDGE_GROUP)
        for match, port in self._learnt:
            if left is None:
                return
            if (known := restrict(left, match)) is None:
                continue
            there = replace(part, packets=known)
            if port == state.into:
                yield replace(there, why="learnt at the port that it came in by")
            else:
                yield self._send(port, state, there)
            left = exclude(left, match)
        if left is not None:
            yield self._flood(state, replace(part, packets=left))


def _doubted(part: Part, what: str) -> Part:
    assert part.flow is not None  # an action is a flow's
    return replace(part, doubts=(*part.doubts, (what, part.flow)))


def _address(vlan: int, mac: int) -> Match:
    """Packets to that address in that VLAN; 0: untagged, or tagged with a priority only."""
    shift, _ = LAYOUT["vlan"]
    to = Match.of(eth_dst=mac)
    return Match(to.value | vlan << shift, to.mask | 0xFFF << shift)


_Hit = tuple[Region, Flow | None, tuple[tuple[str, Flow], ...]]


class _Table:
    """The flows of one table, the highest first."""

    def __init__(self, flows: list[Flow]) -> None:
        self._flows = sorted(flows, key=lambda flow: (-flow.priority, bool(flow.clauses), flow.match))
        self._index = MatchIndex()
        for at, flow in enumerate(self._flows):
            self._index.add(at, flow.match.value, flow.match.mask)

    def lookup(self, packets: Region, into: int, registers: Mapping[int, int]) -> Iterator[_Hit]:
        """The packets' parts with the flow that each meets (None: none), and with what is in doubt of it."""
        near = [self._flows[at] for at in sorted(self._index.overlapping(*packets.match))]
        near = [flow for flow in near if _agrees(flow, into, registers)]
        yield from self._first(packets, near, 0, ())

    def _first(
        self, packets: Region, near: list[Flow], conj_id: int, doubts: tuple[tuple[str, Flow], ...]
    ) -> Iterator[_Hit]:
        left = [packets]
        for _, level in groupby(near, key=lambda flow: flow.priority):
            soft: dict[tuple[int, int], dict[int, list[Match]]] = {}
            for flow in level:
                if clauses := flow.clauses:
                    for clause in clauses if not conj_id else ():
                        soft.setdefault((clause.number, clause.n), {}).setdefault(clause.k, []).append(flow.match)
                elif flow.conj_id in (None, conj_id):
                    hits = [hit for region in left if (hit := restrict(region, flow.match)) is not None]
                    if flow.beyond:
                        doubts += ((f"a match of {flow.beyond}", flow),) if hits else ()
                        continue
                    for hit in hits:
                        yield hit, flow, doubts
                    left = [rest for region in left if (rest := exclude(region, flow.match)) is not None]
            for (number, n), dimensions in sorted(soft.items()):
                if len(dimensions) == n:
                    split = [product(region, list(dimensions.values())) for region in left]
                    left = [rest for _, incomplete in split for rest in incomplete]
                    for complete in (region for found, _ in split for region in found):
                        for hit, flow_found, doubted in self._first(complete, near, number, doubts):
                            if flow_found is None:
                                left.append(hit)  # looked up in vain: the conjunctions below are tried
                            else:
                                yield hit, flow_found, doubted
            if not left:
                return
        for region in left:
            yield region, None, doubts


def _agrees(flow: Flow, into: int, registers: Mapping[int, int]) -> bool:
    if flow.in_port is not None and flow.in_port != into:
        return False
    return all(registers.get(number, 0) & mask == value for number, value, mask in flow.registers)
