"""The books of queues: which are wanted on which port, which are made, which flows still name; and the steps between.
No I/O.

Kept by queue ids, each with its ports, so a change costs what changes, not what is there (delta_tracker). A queue of a
port is open while what is wanted is not what is made. Its step is to what is wanted, but for a queue that is made for a
request and still named by a flow of it: that one stays, and its id is nobody else's meanwhile, unless the request's
queue is wanted and made on other ports. Until it is said what is wanted all stays. Invariant: `_reserved` and `_counts`
are of what is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping

from ovspane.placement.flow_rules import Queue
from ovspane.switch.delta_tracker import DeltaTracker

#: port -> queue id -> queue
Queues = Mapping[str, Mapping[int, Queue]]
#: the same as changes: None: not any more
Changes = dict[str, dict[int, Queue | None]]
#: may a flow that is installed name this queue id for that request (its low 32 bits)?
Named = Callable[[int, int], bool]
REQUEST = 0xFFFFFFFF
#: queue id -> port -> queue
_ById = dict[int, dict[str, Queue]]


class QueueLedger:
    """What is wanted, and what is made once `read_back` said what is there."""

    def __init__(self, named: Named) -> None:
        self._named = named
        self._wanted: _ById = {}
        self._tracker: DeltaTracker[int, dict[str, Queue]] = DeltaTracker(self._wanted)
        self._wanted_known = False  # what is wanted
        self._reserved: dict[str, int] = {}
        self._counts: Counter[str] = Counter()

    @property
    def known(self) -> bool:
        """True iff it is known what is made."""
        return self._tracker.actual is not None

    def has(self, port: str) -> bool:
        """True iff the port has a queue."""
        return self._counts[port] > 0

    # --- what is wanted

    def want_all(self, queues: Queues) -> None:
        """These queues, and no others."""
        self._wanted_known = True
        self._tracker.wanted = self._wanted = _by_id(queues)
        self._tracker.touch_all()

    def want(self, changes: Changes) -> None:
        """The same as before is wanted, but for these."""
        for port, queues in changes.items():
            for number, queue in queues.items():
                _put(self._wanted, port, number, queue)
            self._tracker.touch(queues)

    # --- what is made

    def read_back(self, queues: Queues) -> None:
        """These queues are there, and no others."""
        self._tracker.read_back(_by_id(queues))
        self._reserved = {port: sum(queue.min_rate for queue in some.values()) for port, some in queues.items()}
        self._counts = Counter({port: len(some) for port, some in queues.items()})

    def note_done(self, changes: Changes) -> None:
        """These steps were done."""
        made = self._tracker.actual
        assert made is not None
        self._reserved |= self.reserved(changes)
        for port, queues in changes.items():
            for number, queue in queues.items():
                self._counts[port] += (queue is not None) - (self._made_at(port, number) is not None)
                _put(made, port, number, queue)
            self._tracker.touch(queues)

    def reserved(self, changes: Changes) -> dict[str, int]:
        """The sums of the minimum rates (bit/s) on these ports when these steps will have been done."""
        sums = {}
        for port, queues in changes.items():
            old = (self._made_at(port, number) for number in queues)
            gone = sum(queue.min_rate for queue in old if queue is not None)
            come = sum(queue.min_rate for queue in queues.values() if queue is not None)
            sums[port] = self._reserved.get(port, 0) - gone + come
        return sums

    # --- what is to be done

    def steps(self) -> Changes:
        """What may be done now."""
        changes: Changes = {}
        for port, number, queue in self._steps():
            changes.setdefault(port, {})[number] = queue
        return changes

    @property
    def done(self) -> bool:
        """True iff ports have exactly the queues that are wanted, or that flows still name."""
        return self.known and next(self._steps(), None) is None

    def ready(self, number: int) -> bool:
        """True iff flows may name the queue: on each port that shall have it, it is there as wanted."""
        made, suspects = self._tracker.actual, self._tracker.suspects
        if made is None:
            return False
        if suspects is not None and number not in suspects:
            return True
        there = made.get(number, {})
        return all(there.get(port) == queue for port, queue in self._wanted.get(number, {}).items())

    def target(self) -> dict[str, dict[int, Queue]]:
        """All queues as they shall be when the steps were done."""
        target: dict[str, dict[int, Queue]] = {}
        for number, ports in self._wanted.items():
            for port, queue in ports.items():
                target.setdefault(port, {})[number] = queue
        for port, number, after in self._open():
            if after is not None:
                target.setdefault(port, {})[number] = after
            elif port in target:
                target[port].pop(number, None)
        return {port: queues for port, queues in target.items() if queues}

    def _steps(self) -> Iterator[tuple[str, int, Queue | None]]:
        return ((port, number, queue) for port, number, queue in self._open() if queue != self._made_at(port, number))

    def _open(self) -> Iterator[tuple[str, int, Queue | None]]:
        """Where what is wanted is not what is made, and what comes next there."""
        made = self._tracker.actual or {}
        for number in self._tracker.differing():
            wanted, there = self._wanted.get(number, {}), made.get(number, {})
            for port in wanted.keys() | there.keys():
                if wanted.get(port) != there.get(port):
                    yield port, number, self._next(port, number)

    def _next(self, port: str, number: int) -> Queue | None:
        """What is made and may still be named keeps its place, also from another request."""
        made, wanted = self._made_at(port, number), self._wanted.get(number, {}).get(port)
        if made is None or (wanted is not None and wanted.request == made.request):
            return wanted
        if not self._wanted_known:
            return made
        if wanted is None and self._moved(number, made.request):
            return None
        return made if self._named(number, made.request & REQUEST) else wanted

    def _moved(self, number: int, request: int) -> bool:
        """True iff the request has its queue on other ports now: its flows go on naming it, but do not leave by this
        one."""
        wanted = self._wanted.get(number, {}).values()
        return any(queue.request == request for queue in wanted) and self.ready(number)

    def _made_at(self, port: str, number: int) -> Queue | None:
        made = self._tracker.actual
        return made.get(number, {}).get(port) if made is not None else None


def _by_id(queues: Queues) -> _ById:
    found: _ById = {}
    for port, some in queues.items():
        for number, queue in some.items():
            found.setdefault(number, {})[port] = queue
    return found


def _put(queues: MutableMapping[int, dict[str, Queue]], port: str, number: int, queue: Queue | None) -> None:
    if queue is not None:
        queues.setdefault(number, {})[port] = queue
    elif number in queues:
        queues[number].pop(port, None)
        if not queues[number]:
            del queues[number]
