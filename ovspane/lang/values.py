"""Readers of the small things of the grammar: times, rates, volumes, sizes, integers, addresses, ports, MACs. Pure.

Every reader takes a Cursor and raises SyntaxFault. Rates are integer bit/s, volumes bits, sizes bytes (all rounded down
to a whole unit), times milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from socket import AF_INET, AF_INET6, inet_pton

from ovspane.lang.statements import FOREVER, NOW, Time, TimeKind
from ovspane.lang.tokens import Cursor
from ovspane.lang.units import BitsPerSecond, Ms
from ovspane.packets.fields import AddressSet, Ternary
from ovspane.packets.intervals import IntervalSet

#: the largest rate, volume, size and time: what a double holds exactly, since JSON clients read numbers as doubles
LARGEST = 2**53

#: factors as powers of ten, so that decimals can be rounded exactly
RATE_UNITS = {"b": 0, "kb": 3, "Kb": 3, "Mb": 6, "Gb": 9}
BYTE_UNITS = {"B": 0, "kB": 3, "MB": 6, "GB": 9, "TB": 12}
TIME_UNITS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}  # seconds

_NUMBER = re.compile(r"([0-9]+)(?:\.([0-9]+))?([A-Za-z]*)", re.ASCII)
_INTEGER = re.compile(r"[0-9]+", re.ASCII)
_LENGTH = re.compile(r"([0-9]+)([A-Za-z]*)", re.ASCII)
_SPAN = re.compile(r"([0-9]+)(-?)([0-9]*)", re.ASCII)
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}", re.ASCII)
_ISO = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9:]+)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TIME = "a time: now, +10min, seconds since the epoch, or ISO-8601 with a zone"


def _small(digits: str, limit: int) -> int | None:
    """The value of a run of digits, or None above the limit; never converts a long run (int() is quadratic)."""
    if len(digits) > 17:
        digits = digits.lstrip("0") or "0"
        if len(digits) > 17:
            return None
    value = int(digits)
    return value if value <= limit else None


def integer(cursor: Cursor, lo: int, hi: int, what: str, *, hexadecimal: bool = False) -> int:
    """A whole number of [lo, hi]; `what` names it: 'a DSCP'."""
    word = cursor.word
    value: int | None = None
    if _INTEGER.fullmatch(word):
        value = _small(word, hi)
    elif hexadecimal and re.fullmatch(r"0[xX][0-9A-Fa-f]{1,16}", word):
        value = int(word, 16)
    if value is None or not lo <= value <= hi:
        raise cursor.fault(f"{what} of {lo} to {hi}")
    cursor.at += 1
    return value


def _quantity(cursor: Cursor, units: Mapping[str, int], bare: int, what: str, largest: str) -> int:
    """NUMBER [unit] with 10**power as the unit's factor, rounded down."""
    found = _NUMBER.fullmatch(cursor.word)
    if found is None:
        raise cursor.fault(what)
    whole, fraction, unit = found.groups()
    steps = 1
    if not unit and cursor.words[cursor.at + 1] in units:
        unit, steps = cursor.words[cursor.at + 1], 2
    power = units.get(unit) if unit else bare
    if power is None:
        raise cursor.fault(what)
    value = _small(whole, LARGEST)
    # Only the first `power` decimals can add a whole unit.
    total = None if value is None else value * int(10**power) + int("0" + (fraction or "")[:power].ljust(power, "0"))
    if total is None or total > LARGEST:
        raise cursor.fault(f"{what.split(',')[0]} below {largest}")
    cursor.at += steps
    return total


def rate(cursor: Cursor) -> BitsPerSecond:
    """bit/s; a bare number is Mb/s, as in PANE."""
    return BitsPerSecond(_quantity(cursor, RATE_UNITS, 6, "a rate, as 5Mb, 2.5Gb or 300kb", "9007199Gb"))


def volume(cursor: Cursor) -> int:
    """bits; a bare number is Mb."""
    return _quantity(cursor, RATE_UNITS, 6, "a volume, as 5Mb, 2.5Gb or 300kb", "9007199Gb")


def size(cursor: Cursor) -> int:
    """bytes; a bare number is bytes."""
    return _quantity(cursor, BYTE_UNITS, 0, "a size, as 10MB, 2.5GB or 4096", "9007TB")


def time(cursor: Cursor, *, forever: bool = False) -> Time:
    """A time; `forever` says whether that word may stand here."""
    if cursor.accept("now"):
        return NOW
    if forever and cursor.accept("forever"):
        return FOREVER
    expected = TIME + (", or forever" if forever else "")
    sign = cursor.word if cursor.word in ("+", "-") else ""
    if sign:
        cursor.at += 1
    found = _LENGTH.fullmatch(cursor.word)
    if found is None:
        if sign or not _ISO.fullmatch(cursor.word):
            raise cursor.fault("a number, as in +10min" if sign else expected)
        return _iso(cursor)
    digits, unit = found.groups()
    steps = 1
    if not unit and cursor.words[cursor.at + 1] in TIME_UNITS:
        unit, steps = cursor.words[cursor.at + 1], 2
    if unit and unit not in TIME_UNITS:
        raise cursor.fault("one of the units s, sec, min, h, hour, d, day after the number")
    seconds = _small(digits, LARGEST)
    ms = LARGEST + 1 if seconds is None else seconds * TIME_UNITS.get(unit, 1) * 1000
    if ms > LARGEST:
        raise cursor.fault("a time of less than 285 000 years")
    cursor.at += steps
    if sign or unit:
        return Time(TimeKind.RELATIVE, Ms(-ms if sign == "-" else ms))
    return Time(TimeKind.ABSOLUTE, Ms(ms))


def _iso(cursor: Cursor) -> Time:
    """ISO-8601 with a zone; a zone east of Greenwich is a `+` and a word of its own to the tokens."""
    first = cursor.at
    text = cursor.next_word()
    if cursor.word == "+" and cursor.adjacent():
        cursor.at += 1
        if cursor.adjacent():
            text += "+" + cursor.next_word()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise cursor.fault("a date and time that exist, as 2026-11-01T10:00:00Z", cursor.at - first) from None
    if moment.tzinfo is None:
        raise cursor.fault("a zone with the time, as 2026-11-01T10:00:00Z or …+01:00", cursor.at - first)
    return Time(TimeKind.ABSOLUTE, Ms((moment - _EPOCH) // timedelta(milliseconds=1)))


def _address(cursor: Cursor) -> tuple[int, int, int]:
    """(IP version, lowest, highest) of ADDR [/prefix]; host bits below the prefix are ignored."""
    word = cursor.word
    v6 = ":" in word
    try:
        value = int.from_bytes(inet_pton(AF_INET6 if v6 else AF_INET, word))
    except (OSError, ValueError, UnicodeEncodeError):
        raise cursor.fault("an IPv4 or IPv6 address") from None
    cursor.at += 1
    width = 128 if v6 else 32
    if not cursor.accept("/"):
        return (6 if v6 else 4), value, value
    hosts = width - integer(cursor, 0, width, "a prefix length")
    low = value >> hosts << hosts
    return (6 if v6 else 4), low, low + (1 << hosts) - 1


def addresses(cursor: Cursor) -> AddressSet:
    """ADDR or { ADDR, … }."""
    spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    braced = cursor.accept("{")
    while True:
        version, low, high = _address(cursor)
        spans[version].append((low, high))
        if not (braced and cursor.accept(",")):
            break
    if braced:
        cursor.expect("}", "',' or '}'")
    return AddressSet(IntervalSet.of(spans[4]), IntervalSet.of(spans[6]))


def port(cursor: Cursor) -> int:
    """A TCP, UDP or SCTP port."""
    return integer(cursor, 0, 0xFFFF, "a port")


def _port_span(cursor: Cursor) -> tuple[int, int]:
    """INT or INT-INT, with or without blanks around the dash; low > high is for the caller to refuse."""
    found = _SPAN.fullmatch(cursor.word)
    if found is None:
        raise cursor.fault("a port of 0 to 65535, or a range as 80-90")
    low, dash, high = found.groups()
    ends = [_small(low, 0xFFFF), _small(high, 0xFFFF) if high else None]
    if ends[0] is None or (high and ends[1] is None):
        raise cursor.fault("a port of 0 to 65535")
    cursor.at += 1
    if not high and (dash or cursor.accept("-")):
        return ends[0], port(cursor)
    return ends[0], ends[0] if ends[1] is None else ends[1]


def ports(cursor: Cursor) -> list[tuple[int, int]]:
    """PORT or { PORT, … } as closed ranges in the order written."""
    if not cursor.accept("{"):
        return [_port_span(cursor)]
    spans = [_port_span(cursor)]
    while cursor.accept(","):
        spans.append(_port_span(cursor))
    cursor.expect("}", "',' or '}'")
    return spans


def _mac_value(cursor: Cursor) -> int:
    if not _MAC.fullmatch(cursor.word):
        raise cursor.fault("a MAC address, as 00:11:22:33:44:55")
    return int(cursor.next_word().replace(":", ""), 16)


def mac(cursor: Cursor) -> Ternary:
    """MAC or MAC/MASK; bits outside the mask are ignored."""
    value = _mac_value(cursor)
    mask = _mac_value(cursor) if cursor.accept("/") else 2**48 - 1
    return Ternary(value & mask, mask)


def boolean(cursor: Cursor) -> bool:
    """True or False, as privileges are written."""
    if cursor.word not in ("True", "False"):
        raise cursor.fault("True or False")
    return cursor.next_word() == "True"
