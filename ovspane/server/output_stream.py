"""What goes out on a connection: answers in the order of what was asked, and notices between them.

Invariants: a notice never stands inside an answer. While the peer leaves more than `high_water` bytes unread nothing is
written; notices beyond their limit are dropped, and the peer is told how many once it reads again. A long answer is
worked out piece by piece as the peer reads, by turns of the accounts (`LongAnswers`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ovspane.lang.replies import PIECE, Reply, no
from ovspane.lang.units import Seconds
from ovspane.server.fair_queue import Account, FairQueue
from ovspane.server.limits import ConnectionLimits

log = logging.getLogger(__name__)

#: a future is waited for; a function is called when all answers before it have been given
Answer = asyncio.Future[Reply] | Callable[[], Reply]


#: renders a reply, in pieces that are each worked out in some milliseconds at most
Show = Callable[[Reply], Iterator[str]]


#: seconds until a long answer that cannot go on is looked at again
NOT_READY = 0.002


class LongAnswers:
    """Who has more to write of a long answer: one piece in each turn of the event loop, by turns of the accounts."""

    def __init__(self) -> None:
        self._queue: FairQueue[Callable[[], None]] = FairQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, account: Account, write: Callable[[], None]) -> None:
        """Call `write` when it is the account's turn."""
        self._queue.put(account, write)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # else it has our call already (of an event loop that is gone it is gone, too)
            self._loop = loop
            loop.call_soon(self._write)

    def _write(self) -> None:
        turn = self._queue.take()
        if turn is not None:
            start = time.perf_counter()
            turn.thing()
            self._queue.charge(turn, time.perf_counter() - start)
        if self._queue and self._loop is not None:
            self._loop.call_soon(self._write)
        else:
            self._loop = None


@dataclass(eq=False, slots=True)
class _Entry:
    """An answer that is due."""

    answer: Answer
    show: Show
    weight: int
    watched: bool = False

    @property
    def ready(self) -> bool:
        return not isinstance(self.answer, asyncio.Future) or self.answer.done()


class OutputStream:
    """Answers that are due and notices that wait, on their way to the transport."""

    #: connections, of all listeners, that wait for answers
    busy: ClassVar[int] = 0
    #: of all listeners
    long_answers: ClassVar[LongAnswers] = LongAnswers()

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        #: whose turns its long answers take
        self.account: Account = ("", "")
        self._rest: Iterator[str] | None = None  # of the answer that is being written
        self._ready: Callable[[], bool] = lambda: True  # whether that can go on now
        self._queued = False  # its next piece waits for its turn
        self._on_ready: Callable[[], None]
        self._dropped_notice: Callable[[int], str]
        self._forget_owner()
        self._transport: asyncio.WriteTransport | None = None
        self._entries: deque[_Entry] = deque()
        self._notices: deque[bytes] = deque()
        self._notice_bytes = 0
        self._stalled_since: Seconds | None = None
        #: of all answers that are due
        self.weight = 0
        #: notices dropped since the peer was told of dropped ones
        self.dropped = 0

    @property
    def outstanding(self) -> int:
        """Answers that are due."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes that the peer has not read: in the transport, and of notices that wait."""
        written = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return written + self._notice_bytes

    @property
    def stalled(self) -> bool:
        """Whether the peer leaves too much unread."""
        return self._stalled_since is not None

    @property
    def in_long_answer(self) -> bool:
        """Whether a long answer was begun that the peer has not read to its end."""
        return self._rest is not None

    def stalled_for(self, now: Seconds) -> float:
        """For how many seconds the peer has left too much unread (`now`: time.monotonic); 0: it has not."""
        return 0.0 if self._stalled_since is None else now - self._stalled_since

    def open(
        self, transport: asyncio.WriteTransport, on_ready: Callable[[], None], dropped_notice: Callable[[int], str]
    ) -> None:
        """From now on what is given is written here. `on_ready` is called when `give` has something to do;
        `dropped_notice` is the text that says how many notices were dropped."""
        self._transport = transport
        self._on_ready = on_ready
        self._dropped_notice = dropped_notice
        transport.set_write_buffer_limits(high=self._limits.high_water, low=self._limits.high_water // 4)

    def close(self) -> None:
        """The peer is gone: nothing is due any more."""
        OutputStream.busy -= bool(self._entries)
        self._transport = None
        self._rest = None
        for entry in self._entries:
            if isinstance(entry.answer, asyncio.Future):
                entry.answer.cancel()  # nobody waits for it: who has not begun with it need not
        self._entries.clear()
        self._notices.clear()
        self._forget_owner()

    def _forget_owner(self) -> None:
        # Only while it is open do we refer to our owner, which refers to us: a cycle that dies may be kept for ever
        # (daemon/garbage.py), and clients decide how many there are.
        self._on_ready = lambda: None
        self._dropped_notice = lambda count: ""

    def stall(self) -> None:
        """The peer left too much unread."""
        self._stalled_since = Seconds(time.monotonic())

    def resume(self) -> None:
        """The peer reads again."""
        self._stalled_since = None

    def add(self, answer: Answer, show: Show, weight: int) -> None:
        """Give this answer, as `show` renders it, after all before it."""
        if not self._entries:
            OutputStream.busy += 1
        self._entries.append(_Entry(answer, show, weight))
        self.weight += weight

    def add_notice(self, text: str) -> bool:
        """Give a notice when no answer is ready; False: it was dropped, since too many wait."""
        data = text.encode("utf-8", "replace")
        if self._notice_bytes + len(data) > self._limits.notices:
            self.dropped += 1
            return False
        self._notices.append(data)
        self._notice_bytes += len(data)
        return True

    def flush(self) -> None:
        """Write the answers that are ready, in order, until one is not or the peer does not read; then notices."""
        while self._rest is None and self._entries and self._entries[0].ready and self._stalled_since is None:
            out: list[str] = []
            size = 0
            while self._rest is None and self._entries and self._entries[0].ready and size < self._limits.high_water:
                out.append(self._next())
                size += len(out[-1])
            self._write("".join(out).encode("utf-8", "replace"))
        if self._rest is not None:
            self._continue_soon()
            return
        if self._entries and not self._entries[0].watched:
            head = self._entries[0]
            if isinstance(head.answer, asyncio.Future):
                head.watched = True
                # The service answers a batch in order without a pause: when the first is there, so are the others.
                head.answer.add_done_callback(lambda _: self._on_ready())
        self._give_notices()

    def _next(self) -> str:
        """The first answer's text, and it is done with; or what the text begins with, and the `_rest` is to come."""
        entry = self._entries[0]
        reply = _result(entry.answer) if isinstance(entry.answer, asyncio.Future) else entry.answer()
        pieces = entry.show(reply)
        if reply.rows is None or len(reply.rows) <= PIECE:
            self._done()
            return "".join(pieces)
        self._rest, self._ready = pieces, reply.rows.ready
        return ""

    def _done(self) -> None:
        """The first answer was written."""
        self.weight -= self._entries.popleft().weight
        OutputStream.busy -= not self._entries

    def _continue_soon(self) -> None:
        """Write the next piece of the first answer when it is our turn, unless the peer does not read."""
        if not self._queued and self._stalled_since is None:
            self._queued = True
            self.long_answers.put(self.account, self._continue)

    def _continue(self) -> None:
        self._queued = False
        if self._rest is None or self._stalled_since is not None:
            return
        if not self._ready():
            asyncio.get_running_loop().call_later(NOT_READY, self._continue_soon)
            return
        piece = next(self._rest, None)
        if piece is None:
            self._rest = None
            self._done()
            self._on_ready()
            return
        self._write(piece.encode("utf-8", "replace"))
        self._continue_soon()

    def _give_notices(self) -> None:
        while self._notices and self._stalled_since is None:
            data = self._notices.popleft()
            self._notice_bytes -= len(data)
            self._write(data)
        if self.dropped and not self._notices and self._stalled_since is None:
            self._write(self._dropped_notice(self.dropped).encode())
            self.dropped = 0

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _result(answer: asyncio.Future[Reply]) -> Reply:
    """What it gives; a defect must not cost the peer its connection."""
    error = answer.exception()
    if error is None:
        return answer.result()
    log.error("working out an answer failed", exc_info=error)
    return no("internal", "ovspane has a defect here; its log says more")
