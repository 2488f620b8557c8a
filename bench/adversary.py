"""Input that is meant to hurt: reservations, shares and requests that bring the engine's structures to their worst
cases.

Seeded, so every run has the same.

    staircases    totals climb and fall in steps around the fill rate, so that the bucket's level is a hill in each
                  block of breakpoints and each long reservation, whatever its rate, makes other breakpoints the
                  greatest and the least
    alternating   two shares whose free times never meet: each start that one offers is refused by the other
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from random import Random

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import ALL, Flowgroup, normalise
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.authority import Grant, Right
from ovspane.policy.state.changes import Value
from ovspane.policy.state.schedule import Schedule
from ovspane.policy.state.shares import ADMINISTRATOR, Privileges, Request, Share

Booking = tuple[int, int, int]
#: who holds each share
#: how much a step of a staircase is (bit/s)
STEP = 7000


def staircases(count: int, steps: int, random: Random) -> tuple[list[Booking], int]:
    """About `count` reservations in staircases of `steps` breakpoints up and down; and when all are over (ms)."""
    out: list[Booking] = []
    at = 1000
    while len(out) < count:
        instants = []
        for _ in range(steps):
            instants.append(at)
            at += 1000 + random.randrange(500)
        for start, end in zip(instants[: steps // 2], instants[steps // 2 :], strict=True):
            out.append((start, end, STEP + random.randrange(10)))
    return out, at


def alternating(count: int, rate: int, pause: int) -> tuple[list[Booking], list[Booking]]:
    """Reservations of `rate` for two shares, `count` each: one share is full whenever the other is not."""
    both = [(i * pause, (i + 1) * pause, rate) for i in range(2 * count)]
    return both[::2], both[1::2]


def held(values: Iterable[Value]) -> Iterator[Value]:
    """The values, and the hold of the administrator on each share among them."""
    for value in values:
        yield value
        if isinstance(value, Share):
            yield Grant(value.name, ADMINISTRATOR, ADMINISTRATOR, Right.MADE)


def nested(depth: int, limits: Privileges) -> list[Share]:
    """`depth` shares below each other, each with the same limits; the last is the innermost."""
    names = [ROOT, *(f"s{number}" for number in range(depth))]
    return [Share(name, above, ALL, limits, ADMINISTRATOR) for above, name in pairwise(names)]


def beside(count: int, limits: Privileges) -> list[Share]:
    """`count` shares, all below the root."""
    return [Share(f"s{number}", ROOT, ALL, limits, ADMINISTRATOR) for number in range(count)]


def host(number: int) -> Flowgroup:
    """The packets to one host; another one for each number below 2**24."""
    return normalise(Flowgroup(dst=AddressSet.parse(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")))


def reserved(share: str, bookings: list[Booking], first: int = 1) -> Iterator[Request]:
    """Reservations of a share, each for a host of its own. They need not fit."""
    for number, (start, end, rate) in enumerate(bookings, start=first):
        yield Request(number, share, ADMINISTRATOR, Kind.RESERVE, host(number), start, end, rate)


def fullest(bookings: list[Booking], fill: int, end: int) -> int:
    """The smallest capacity (bits) of a bucket, full at first, that does not run dry with these bookings."""
    low, high = 0, 10**15
    while high - low > 1:
        middle = (low + high) // 2
        ledger = Schedule("", capacity=middle, fill=fill, level=middle * 1000)
        for booking in bookings:
            ledger.add(*booking)
        low, high = (low, middle) if ledger.missing(end, end + 1, 1) is None else (middle, high)
    return high


def over_all(end: int, random: Random) -> Iterator[Booking]:
    """Reservations over nearly all of 0 .. end, of every order of magnitude."""
    while True:
        yield (
            random.randrange(1, 1000),
            end - random.randrange(1000),
            random.choice((1, 10, 100, 1000, STEP, 3 * STEP, 9 * STEP)),
        )
