"""What is kept by differences equals what is made anew: the books of queues, the flows that name them, plans of a
few queues."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ovspane.ovsdb.queue_plan import (
    DropQos,
    DropQueue,
    Operation,
    PortQos,
    PutQos,
    PutQueue,
    QueueRow,
    plan,
    plan_change,
)
from ovspane.packets.match import Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, FlowRule, Instructions, Queue
from ovspane.placement.pipeline import FlowKey
from ovspane.switch.installed import InstalledFlows
from ovspane.switch.queue_ledger import QueueLedger

PORTS = ("p1", "p2", "p3")
IDS = range(1, 5)
REQUESTS = range(1, 4)
Books = dict[str, dict[int, Queue]]

some_queues = st.builds(
    lambda number, request, rate: Queue(number, rate, None, ("any",), request),
    st.sampled_from(IDS), st.sampled_from(REQUESTS), st.integers(1, 3),
)  # fmt: skip
some_books = st.dictionaries(
    st.sampled_from(PORTS), st.lists(some_queues, max_size=4).map(lambda queues: {queue.id: queue for queue in queues})
)
some_changes = st.dictionaries(
    st.sampled_from(PORTS),
    st.lists(some_queues, max_size=3).flatmap(
        lambda queues: st.lists(st.booleans(), min_size=len(queues), max_size=len(queues)).map(
            lambda there: {queue.id: queue if is_there else None for queue, is_there in zip(queues, there, strict=True)}
        )
    ),
)


def full(books: Mapping[str, Mapping[int, Queue]]) -> Books:
    return {port: dict(queues) for port, queues in books.items() if queues}


def target(wanted: Books, made: Books, named: set[tuple[int, int]]) -> Books:
    """What is wanted, and what was made before and may still be named: that one also keeps its id from another
    request, but where nothing else is wanted and its request has its queue on all the other ports that it shall have
    it on."""

    def moved(number: int, request: int) -> bool:
        there = [
            (queues[number], made.get(port, {}).get(number)) for port, queues in wanted.items() if number in queues
        ]
        return any(queue.request == request for queue, _ in there) and all(queue == has for queue, has in there)

    found = {port: dict(queues) for port, queues in wanted.items()}
    for port, queues in made.items():
        for number, queue in queues.items():
            there = wanted.get(port, {}).get(number)
            if there is None and moved(number, queue.request):
                continue
            if (number, queue.request) in named and (there is None or there.request != queue.request):
                found.setdefault(port, {})[number] = queue
    return full(found)


class Histories(RuleBasedStateMachine):
    """The ledger beside plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.named: set[tuple[int, int]] = set()
        self.ledger = QueueLedger(lambda number, request: (number, request) in self.named)
        self.wanted: Books = {}
        self.made: Books = {}

    @initialize(books=some_books, there=some_books)
    def begin(self, books: Books, there: Books) -> None:
        self.made = full(there)
        self.ledger.read_back(there)
        assert self.ledger.done  # nobody has said yet what is wanted
        assert self.ledger.target() == self.made
        self.want_all(books)

    @rule(books=some_books)
    def want_all(self, books: Books) -> None:
        self.wanted = full(books)
        self.ledger.want_all(books)

    @rule(changes=some_changes)
    def want(self, changes: dict[str, dict[int, Queue | None]]) -> None:
        for port, queues in changes.items():
            for number, queue in queues.items():
                self.wanted.setdefault(port, {})
                if queue is not None:
                    self.wanted[port][number] = queue
                else:
                    self.wanted[port].pop(number, None)
        self.wanted = full(self.wanted)
        self.ledger.want(changes)

    @rule(named=st.sets(st.tuples(st.sampled_from(IDS), st.sampled_from(REQUESTS))))
    def name(self, named: set[tuple[int, int]]) -> None:
        self.named = named

    @rule(late=some_changes)
    def step(self, late: dict[str, dict[int, Queue | None]]) -> None:
        """Something else is wanted while the steps are being done."""
        steps, after = self.ledger.steps(), target(self.wanted, self.made, self.named)
        sums = self.ledger.reserved(steps)
        assert sums == {port: sum(queue.min_rate for queue in after.get(port, {}).values()) for port in steps}
        self.want(late)
        self.ledger.note_done(steps)
        self.made = after

    @rule(there=some_books)
    def compare(self, there: Books) -> None:
        self.made = full(there)
        self.ledger.read_back(there)

    @invariant()
    def the_books_are_right(self) -> None:
        wanted = target(self.wanted, self.made, self.named)
        assert self.ledger.target() == wanted
        assert self.ledger.done == (wanted == self.made)
        for number in IDS:
            ready = all(
                self.made.get(port, {}).get(number) == queues[number]
                for port, queues in self.wanted.items()
                if number in queues
            )
            assert self.ledger.ready(number) == ready
        for port in PORTS:
            assert self.ledger.has(port) == (port in self.made)


TestHistories = Histories.TestCase


def test_nothing_is_ready_before_it_is_known_what_is_made() -> None:
    ledger = QueueLedger(lambda number, request: False)
    ledger.want_all({"p1": {1: Queue(1, 5, None, ("p1",), 1)}})
    assert not ledger.known
    assert not ledger.done
    assert not ledger.ready(1)


# --- flows that name queues

rules = st.builds(
    lambda port, queue, request: FlowRule(
        172, 5, Match.of(tp_dst=port), Instructions(set_queue=queue), COOKIE_TAG | request
    ),
    st.integers(0, 5), st.none() | st.sampled_from(IDS), st.sampled_from(REQUESTS),
)  # fmt: skip


def named_queues(installed: Mapping[FlowKey, FlowRule], planned: Mapping[FlowKey, FlowRule]) -> set[tuple[int, int]]:
    """Each queue that flows name, with the request that it is for, from all flows."""
    found = set()
    for key, there in installed.items():
        queue = there.instructions.set_queue
        if queue is not None:
            at = planned.get(key, there)
            owner = at if at.instructions.set_queue == queue else there
            found.add((queue, owner.cookie & ~COOKIE_MASK))
    return found


@given(st.lists(rules), st.lists(st.tuples(st.sampled_from(("set", "del", "pop")), rules)), st.lists(rules))
def test_installed_knows_what_is_named(
    first: list[FlowRule], steps: list[tuple[str, FlowRule]], plan: list[FlowRule]
) -> None:
    installed, plain = InstalledFlows(first), {flow.key: flow for flow in first}
    for verb, flow in steps:
        if verb == "set":
            installed[flow.key] = plain[flow.key] = flow
        elif verb == "pop":
            assert installed.pop(flow.key, None) == plain.pop(flow.key, None)
        elif flow.key in plain:
            del installed[flow.key], plain[flow.key]
        for planned in ({}, {flow.key: flow for flow in plan}):
            named = {
                (queue, request) for queue in IDS for request in REQUESTS if installed.names(queue, request, planned)
            }
            assert named == named_queues(plain, planned)
    assert installed == plain


# --- plans of a few queues

M = 1_000_000


def done(has: PortQos, operations: list[Operation]) -> PortQos:
    """What a port has when the operations were done."""
    qos, ours, rate, held = has.qos, has.ours, has.rate, dict(has.queues)
    for step in operations:
        match step:
            case PutQos():
                qos, ours, rate = step.qos or uuid4(), True, step.rate
            case PutQueue():
                held[step.id] = QueueRow(step.row or uuid4(), True, step.value)
            case DropQueue():
                del held[step.id]
            case DropQos():
                qos, ours, rate, held = None, False, None, {}
    return PortQos(has.bridge, qos, ours, rate, held, has.speed, has.interfaces)


@settings(max_examples=500)
@given(some_books, some_changes, st.sampled_from((None, 2, 100 * M)))
def test_the_plan_of_a_few_queues_is_that_of_all(
    first: Books, changes: dict[str, dict[int, Queue | None]], speed: int | None
) -> None:
    speeds = {"p1": 100 * M, "p2": 20} | ({"p3": speed} if speed else {})
    ports = {port: PortQos("br0", interfaces=(port,)) for port in PORTS}
    made = plan(first, ports, speeds, "3.1.0")
    ports = {port: done(has, [step for step in made.operations if step.port == port]) for port, has in ports.items()}
    second = {
        port: {n: queue for n, queue in {**first.get(port, {}), **changes.get(port, {})}.items() if queue}
        for port in PORTS
    }
    reserved = {port: sum(queue.min_rate for queue in queues.values()) for port, queues in second.items()}
    concerned = {port: {0, *queues} for port, queues in changes.items()}
    few = {
        port: PortQos(
            has.bridge,
            has.qos,
            has.ours,
            has.rate,
            {n: h for n, h in has.queues.items() if n in concerned[port]},
            has.speed,
            has.interfaces,
        )
        for port, has in ports.items()
        if port in changes
    }
    found = plan_change(changes, few, reserved, made.refused, speeds, "3.1.0")
    whole = plan(second, ports, speeds, "3.1.0")
    if found is None:  # a port comes, or goes, or is refused for the first time
        assert any((has.qos is None) != (not second[port]) or not second[port] for port, has in ports.items())
    else:
        assert set(found.operations) == set(whole.operations)
        assert found.refused == {port: why for port, why in whole.refused.items() if port in changes}
