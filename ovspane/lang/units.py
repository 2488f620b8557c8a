"""The units that values are in, as types, and rates, volumes and times as text: exact, short, and readable by the
parser again. Pure.

A number gets its unit where it comes in (parser, clock, database) or where it was calculated; mypy then keeps instants
of the wall clock, seconds of the event loop's clock and rates apart. What the schedules calculate inside is plain int.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NewType

#: an instant of the wall clock (since the epoch; on a manual clock, since its start), or a length of time: milliseconds
Ms = NewType("Ms", int)
#: an instant of the monotonic clock, which the event loop goes by, or a length of time: seconds
Seconds = NewType("Seconds", float)
#: a rate
BitsPerSecond = NewType("BitsPerSecond", int)

EPOCH = Ms(0)
NO_RATE = BitsPerSecond(0)

_UNITS = ((10**9, "Gb"), (10**6, "Mb"), (10**3, "kb"))
#: instants before this one (in ms, about 1973) belong to a manual clock and are written as seconds
_EPOCH_LIKE = 10**11
#: instants from this one on (the year 10000) have no ISO-8601 date and are written as seconds too
_LAST_DATE = 253_402_300_800_000


def rate_text(bits: int | None) -> str:
    """A rate (bit/s) or volume (bits) as the language writes it: 2Mb, 1.5Gb, 999b; None is unlimited."""
    if bits is None:
        return "unlimited"
    for factor, unit in _UNITS:
        if bits >= factor and bits % (factor // 1000) == 0:
            whole, rest = divmod(bits, factor)
            return (f"{whole}.{rest * 1000 // factor:03d}".rstrip("0").rstrip(".")) + unit
    return f"{bits}b"


def time_text(ms: Ms | None) -> str:
    """An instant as the language reads it: ISO-8601 in UTC, or bare seconds on a manual clock; None is forever."""
    if ms is None:
        return "forever"
    if ms < _EPOCH_LIKE or ms >= _LAST_DATE:
        seconds, rest = divmod(ms, 1000)
        return f"{seconds}.{rest:03d}" if rest else str(seconds)
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    text = moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds")
    return text.replace("+00:00", "Z")


def length_text(ms: Ms) -> str:
    """A length of time, rounded up to whole seconds: 20min, 2h, 90s."""
    seconds = -(-ms // 1000)
    for factor, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= factor and seconds % factor == 0:
            return f"{seconds // factor}{unit}"
    return f"{seconds}s"
