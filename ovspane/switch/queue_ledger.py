"""The books of queues: which are wanted on which port, which are made, which flows still name; and the steps between.
No I/O.

Everything is kept by pairs of port and queue id, so a change costs what changes, not what is there. A pair is open
while what is wanted is not what is made. Its step is to what is wanted, but for a queue that is made for a request and
still named by a flow of it: that one stays, and its id is nobody else's meanwhile, unless the request's queue is wanted
and made on other ports. Until it is said what is wanted all stays. Invariants: `_open` are exactly the pairs with
wanted != made; `_reserved` are the sums of the minimum rates of what is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ovspane.placement.flow_rules import Queue

#: port -> queue id -> queue
Queues = Mapping[str, Mapping[int, Queue]]
#: the same as changes: None: not any more
Changes = dict[str, dict[int, Queue | None]]
#: may a flow that is installed name this queue id for that request (its low 32 bits)?
Named = Callable[[int, int], bool]
REQUEST = 0xFFFFFFFF


class QueueLedger:
    """What is wanted, and what is made once `made_all` told what is there."""

    def __init__(self, named: Named) -> None:
        self._named = named
        self._wanted: dict[str, dict[int, Queue]] = {}
        self._told = False
        self._made: dict[str, dict[int, Queue]] | None = None
        self._open: dict[int, set[str]] = {}
        self._reserved: dict[str, int] = {}

    @property
    def known(self) -> bool:
        """True iff it is known what is made."""
        return self._made is not None

    def has(self, port: str) -> bool:
        """True iff the port has a queue."""
        return bool(self._made and self._made.get(port))

    # --- what is wanted

    def want_all(self, queues: Queues) -> None:
        """These queues, and no others."""
        self._told = True
        self._wanted = {port: dict(some) for port, some in queues.items() if some}
        self._compare()

    def want(self, changes: Changes) -> None:
        """Others than before are wanted, as said."""
        for port, queues in changes.items():
            for number, queue in queues.items():
                _put(self._wanted, port, number, queue)
                self._look(port, number)

    # --- what is made

    def made_all(self, queues: Queues) -> None:
        """These queues are there, and no others."""
        self._made = {port: dict(some) for port, some in queues.items() if some}
        self._reserved = {port: sum(queue.min_rate for queue in some.values()) for port, some in self._made.items()}
        self._compare()

    def made(self, changes: Changes) -> None:
        """These steps were done."""
        assert self._made is not None
        self._reserved |= self.reserved(changes)
        for port, queues in changes.items():
            for number, queue in queues.items():
                _put(self._made, port, number, queue)
                self._look(port, number)

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
        return self._made is not None and next(self._steps(), None) is None

    def ready(self, number: int) -> bool:
        """True iff flows may name the queue: on each port that shall have it, it is there as wanted."""
        if self._made is None:
            return False
        return not any(number in self._wanted.get(port, ()) for port in self._open.get(number, ()))

    def target(self) -> dict[str, dict[int, Queue]]:
        """All queues as they shall be when the steps were done."""
        target = {port: dict(queues) for port, queues in self._wanted.items()}
        for number, ports in self._open.items():
            for port in ports:
                _put(target, port, number, self._next(port, number))
        return target

    def _steps(self) -> Iterator[tuple[str, int, Queue | None]]:
        for number, ports in self._open.items():
            for port in ports:
                queue = self._next(port, number)
                if queue != self._made_at(port, number):
                    yield port, number, queue

    def _next(self, port: str, number: int) -> Queue | None:
        """What is made and may still be named keeps its place, also from another request."""
        made, wanted = self._made_at(port, number), self._wanted_at(port, number)
        if made is None or (wanted is not None and wanted.request == made.request):
            return wanted
        if not self._told:
            return made
        if wanted is None and self._moved(number, made.request):
            return None
        return made if self._named(number, made.request & REQUEST) else wanted

    def _moved(self, number: int, request: int) -> bool:
        """True iff the request has its queue on other ports now: its flows go on naming it, but do not leave by this
        one."""
        elsewhere = any(
            (queue := queues.get(number)) is not None and queue.request == request for queues in self._wanted.values()
        )
        return elsewhere and self.ready(number)

    def _made_at(self, port: str, number: int) -> Queue | None:
        return self._made.get(port, {}).get(number) if self._made is not None else None

    def _wanted_at(self, port: str, number: int) -> Queue | None:
        return self._wanted.get(port, {}).get(number)

    def _look(self, port: str, number: int) -> None:
        """Keep the open pairs."""
        if self._wanted_at(port, number) != self._made_at(port, number):
            self._open.setdefault(number, set()).add(port)
        elif number in self._open:
            self._open[number].discard(port)
            if not self._open[number]:
                del self._open[number]

    def _compare(self) -> None:
        self._open = {}
        made = self._made or {}
        for port in self._wanted.keys() | made.keys():
            wanted, there = self._wanted.get(port, {}), made.get(port, {})
            for number in wanted.keys() | there.keys():
                if wanted.get(number) != there.get(number):
                    self._open.setdefault(number, set()).add(port)


def _put(queues: dict[str, dict[int, Queue]], port: str, number: int, queue: Queue | None) -> None:
    if queue is not None:
        queues.setdefault(port, {})[number] = queue
    elif port in queues:
        queues[port].pop(number, None)
        if not queues[port]:
            del queues[port]
