"""What greedy, broken or hostile clients do to a daemon, and what an honest one beside them sees.

Each attack is one that was measured to hurt (docs/measurements.md, `hostile`). Attackers run in a process of their own,
so that they take no processor time of the honest client's interpreter; they speak as what the kernel says they are:
sockets are made while the effective uid is theirs (SO_PEERCRED, unix(7)).

    with beside(daemon, ATTACKS["explain"], size) as hurt:
        latencies = honest(daemon, 200)

Invariant: an attack goes on until it is ended; whatever it is answered, it goes on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter, sleep

from tests.support.daemon_process import DaemonProcess, Talk
from tests.support.patience import LONG

#: accounts of nobody: the honest client, the attacker, and the first of many guests
HONEST, ATTACKER, GUEST = 63_001, 63_002, 63_100
#: what both hold
SHARES = (
    f"AddUser honest as uid {HONEST}.",
    f"AddUser attacker as uid {ATTACKER}.",
    "NewShare honest for (srcHost=10.1.0.0/16) [reserve <= 1Gb, ratelimit >= 1kb] on rootShare.",
    "NewShare attacker for (srcHost=10.2.0.0/16) [reserve <= 1Gb, ratelimit >= 1b] on rootShare.",
    "Grant honest to honest.",
    "Grant attacker to attacker.",
)
#: pause between two statements of the honest client (seconds)
PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class Attack:
    """`prepare`: statements of root and of the attacker before it (each ends with a dot), for a size; `connections` of
    `uid` (counting on from `GUEST` for guests) send `pour`, numbered, `depth` of them without waiting for answers."""

    prepare: Callable[[int], tuple[Sequence[str], Sequence[str]]]
    pour: Callable[[int], str]
    connections: int = 1
    depth: int = 1
    guests: bool = False


def host(number: int) -> str:
    """An address of the attacker's share."""
    return f"10.2.{number >> 8 & 255}.{number & 255}"


def _nothing(size: int) -> tuple[Sequence[str], Sequence[str]]:
    return (), ()


def entangled(size: int) -> tuple[Sequence[str], Sequence[str]]:
    """Denies and allows at several levels whose packets overlap in part, each with each."""
    shares = [f"NewShare a{n} for (srcHost=10.2.0.0/16) [] on {f'a{n - 1}' if n else 'attacker'}." for n in range(4)]
    asks = [
        f"{'deny' if n % 3 else 'allow'}(srcHost=10.2.0.0/16, srcPort={n * 37 % 9000 + 1}-{n * 37 % 9000 + 20000},"
        f" dstPort={n * 53 % 9000 + 1}-{n * 53 % 9000 + 20000}) partial on a{n % 4}."
        for n in range(size)
    ]
    return (), [*shares, *asks]


def _many_requests(size: int) -> tuple[Sequence[str], Sequence[str]]:
    return (), [f"deny(srcHost={host(n % 65536)}, dstPort={n // 65536 + 1}) on attacker." for n in range(size)]


def _many_shares(size: int) -> tuple[Sequence[str], Sequence[str]]:
    shares = [f"NewShare guest{n} for (srcHost={host(n % 65536)}) [] on rootShare." for n in range(size)]
    return [*shares, *(f"GrantDefault guest{n}." for n in range(size))], ()


def _braces(number: int, count: int) -> str:
    return "{" + ", ".join(f"10.2.{(number * 7 + i) & 255}.{i * 13 & 255}" for i in range(count)) + "}"


def product(number: int) -> str:
    ports = "{" + ", ".join(str(1000 + number * 3 + 5 * i) for i in range(16)) + "}"
    return f"deny(srcHost={_braces(number, 10)}, dstHost={_braces(number + 99, 8)}, dstPort={ports}) on attacker."


def long_hint(number: int) -> str:
    return f"hint(srcHost={_braces(number, 4000)}) = bursty on attacker."


ATTACKS = {
    "explain": Attack(entangled, lambda n: "Explain(srcHost=10.2.0.0/16).", connections=16),
    "listings": Attack(_many_requests, lambda n: "ListRequests.", connections=32, depth=8),
    "guests": Attack(_many_shares, lambda n: "ListShares.", connections=100, guests=True),
    "grants": Attack(_nothing, lambda n: f"Grant attacker to somebody{n}.", depth=64),
    "products": Attack(_nothing, product, depth=16),
    "hints": Attack(_nothing, long_hint, depth=4, connections=4),
    "reservations": Attack(
        _nothing, lambda n: f"reserve(srcHost={host(n % 65536)}, dstPort=80) = 1b on attacker.", depth=64
    ),
}


def connection(daemon: DaemonProcess, uid: int) -> Talk:
    """A client that the daemon takes for one of this account."""
    daemon.folder.chmod(0o711)
    os.seteuid(uid)
    try:
        return Talk(daemon.socket, LONG)
    finally:
        os.seteuid(0)


def say(talk: Talk, statements: Sequence[str], batch: int = 64) -> None:
    """Statements in batches; each must be OK."""
    for first in range(0, len(statements), batch):
        part = statements[first : first + batch]
        talk.send("\n".join(part) + "\n")
        for statement in part:
            [reply, *_] = talk.reply()
            if not reply.startswith("OK"):
                raise RuntimeError(f"{reply}: {statement}")


def _pour(attack: Attack, talk: Talk, number: int, sent: list[int]) -> None:
    """Send without end, `depth` statements ahead of the answers, which are read and thrown away."""
    ahead = 0
    with contextlib.suppress(OSError):
        while True:
            while ahead < attack.depth:
                talk.send(attack.pour(number) + "\n")
                number += 1
                ahead += 1
            talk.reply()
            sent[0] += 1
            ahead -= 1


def _attackers(attack: Attack, talks: Sequence[Talk]) -> None:
    """The process of the attackers."""
    sent = [0]
    for index, talk in enumerate(talks):
        threading.Thread(target=_pour, args=(attack, talk, index * 100_000, sent), daemon=True).start()
    threading.Event().wait()


@contextlib.contextmanager
def beside(daemon: DaemonProcess, attack: Attack, size: int) -> Iterator[None]:
    """The attack goes on meanwhile; `size` of what it prepares."""
    ours, theirs = attack.prepare(size)
    if ours:
        say(daemon.client(), ours)
    if theirs:
        say(connection(daemon, ATTACKER), theirs)
    uids = [GUEST + n if attack.guests else ATTACKER for n in range(attack.connections)]
    talks = [connection(daemon, uid) for uid in uids]
    process = multiprocessing.get_context("fork").Process(target=_attackers, args=(attack, talks), daemon=True)
    process.start()
    for talk in talks:
        talk.close()
    try:
        sleep(1.0)  # an attack is measured while it is under way
        yield
    finally:
        process.kill()
        process.join()


def honest(daemon: DaemonProcess, count: int, first: int = 0, seconds: float = LONG) -> list[float]:
    """Seconds that each of so many statements of the honest client took to its reply; fewer if that takes longer than
    `seconds` in all, but one in any case."""
    times: list[float] = []
    end = perf_counter() + seconds
    with contextlib.closing(connection(daemon, HONEST)) as talk:
        for number in range(first, first + count):
            sleep(PAUSE)
            start = perf_counter()
            reply = talk.ask(f"deny(srcHost=10.1.{number >> 8 & 255}.{number & 255}) on honest.")
            times.append(perf_counter() - start)
            if not reply.startswith("OK"):
                raise RuntimeError(reply)
            if start > end:
                break
    return times
