"""Meters: making, changing and deleting them, which there are, what they counted. No I/O.

Sources: OpenFlow 1.4.1 sections 7.3.4.4 (METER_MOD), 7.3.5.13 to 7.3.5.15 (statistics, configuration, features). Rates
in our values are bit/s, bursts bits; on the wire kbit/s and kbit.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import NamedTuple

from ovspane.openflow.actions import in_range
from ovspane.openflow.constants import (
    ALL_METERS,
    DROP_BAND,
    MAX_BURST,
    MAX_METER_ID,
    MAX_RATE,
    METER_ADD,
    METER_BURST,
    METER_CONFIG,
    METER_DELETE,
    METER_KBPS,
    METER_MOD,
    METER_PKTPS,
    METER_STATS,
    METER_STATS_FLAG,
)
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.framing import Request, multipart_request, unpack
from ovspane.placement.flow_rules import Meter

_HEAD = Struct("!HHI")
_BAND = Struct("!HHII4x")
_STATS = Struct("!IH6xIQQII")
_BAND_STATS = 16  # bytes: packets and bytes of one band


def as_programmed(meter: Meter) -> Meter:
    """What the switch reports after this meter was sent: the rate rounded down to whole kbit/s, since no more may pass
    than was said, the burst up to whole kbit; each at least one."""
    rate, burst = max(1, meter.rate // 1000) * 1000, max(1, -(-meter.burst // 1000)) * 1000
    return Meter(meter.id, rate, burst)


def _mod(command: int, number: int, flags: int, rate: int, burst: int) -> Request:
    return METER_MOD, _HEAD.pack(command, flags, number) + _BAND.pack(DROP_BAND, _BAND.size, rate, burst)


def meter_mod(command: int, meter: Meter) -> Request:
    """METER_ADD or METER_MODIFY. Raises ValueError if rate or burst exceed 2**32 - 1 kbit, or for an impossible id."""
    sent = as_programmed(meter)
    in_range("meter", meter.id, 1, MAX_METER_ID)
    rate, burst = in_range("rate", sent.rate // 1000, 1, MAX_RATE), in_range("burst", sent.burst // 1000, 1, MAX_BURST)
    return _mod(command, meter.id, METER_KBPS | METER_BURST | METER_STATS_FLAG, rate, burst)


def packet_meter_mod(number: int, rate: int, command: int = METER_ADD) -> Request:
    """METER_ADD or METER_MODIFY of a meter of `rate` packets a second, with a burst of one second."""
    return _mod(command, number, METER_PKTPS | METER_BURST | METER_STATS_FLAG, rate, rate)


def meter_delete(meter: int) -> Request:
    """Also removes every flow that names the meter (7.3.4.4). A meter that is not there is no error to Open vSwitch."""
    return METER_MOD, _HEAD.pack(METER_DELETE, 0, meter)


def meter_config_request() -> Request:
    """Ask for all meters."""
    return multipart_request(METER_CONFIG, struct.pack("!I4x", ALL_METERS))


def parse_meter_config(part: bytes) -> dict[int, Meter | None]:
    """Each meter of one part of the reply; None for one that we cannot have made. Raises OpenFlowError."""
    found: dict[int, Meter | None] = {}
    at, end = 0, len(part)
    while at < end:
        length, flags, number = unpack(_HEAD, part, at, "meter entry")
        if length < 8 or at + length > end:
            raise OpenFlowError(f"meter entry of length {length} in {end - at} bytes")
        found[number] = None
        if length == 24 and flags & ~METER_STATS_FLAG == METER_KBPS | METER_BURST:
            kind, _, rate, burst = _BAND.unpack_from(part, at + 8)
            found[number] = Meter(number, rate * 1000, burst * 1000) if kind == DROP_BAND else None
        at += length
    return found


def copies(config: bytes) -> list[Request]:
    """What makes meters just like those of a reply, of whatever kind. Raises OpenFlowError."""
    made: list[Request] = []
    at = 0
    while at < len(config):
        length, flags, number = unpack(_HEAD, config, at, "meter entry")
        if length < _HEAD.size or at + length > len(config):
            raise OpenFlowError(f"meter entry of length {length} in {len(config) - at} bytes")
        made.append((METER_MOD, _HEAD.pack(METER_ADD, flags, number) + config[at + _HEAD.size : at + length]))
        at += length
    return made


class MeterStats(NamedTuple):
    """Of one meter: the flows that name it, whoever made them; the packets that came to it, and those that its bands
    dropped, since it was made."""

    flows: int
    packets: int
    dropped: int


def meter_stats_request(meter: int = ALL_METERS) -> Request:
    """Ask for the counters of one meter, or of all. The switch refuses one that is not there."""
    return multipart_request(METER_STATS, struct.pack("!I4x", meter))


def parse_meter_stats(part: bytes) -> dict[int, MeterStats]:
    """The meters of one part of the reply, by id. Raises OpenFlowError."""
    found: dict[int, MeterStats] = {}
    at, end = 0, len(part)
    while at < end:
        meter, length, flows, packets, *_ = unpack(_STATS, part, at, "meter statistics")
        if length < _STATS.size or at + length > end:
            raise OpenFlowError(f"meter statistics of length {length} in {end - at} bytes")
        bands = range(at + _STATS.size, at + length - _BAND_STATS + 1, _BAND_STATS)
        dropped = sum(int.from_bytes(part[band : band + 8], "big") for band in bands)
        found[meter] = MeterStats(flows, packets, dropped)
        at += length
    return found
