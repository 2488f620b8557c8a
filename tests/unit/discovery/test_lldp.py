"""Our LLDP probes: there and back, and what is not ours; no bytes make a decoder fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.discovery.fdb import parse
from ovspane.discovery.lldp import NotOurs, Probe, decode, encode
from ovspane.discovery.snoop import read

KEY, NOW = b"key", 1_700_000_000_000
PROBE = Probe(0x1234, "host", "br0", "eth0", NOW, 7)
FRAME = encode(PROBE, KEY, bytes.fromhex("020000000001"), 8)


def test_a_probe_says_who_sent_it() -> None:
    assert decode(FRAME, KEY, NOW) == PROBE
    assert len(FRAME) >= 60 and FRAME[0] & 1  # a group address
    odd = Probe(2**64 - 1, "", "b" * 15, "p/ü:1", NOW, 2**32 - 1)
    assert decode(encode(odd, KEY, bytes(6), 70_000), KEY, NOW) == odd


@pytest.mark.parametrize(
    "wrong",
    [
        PROBE._replace(port=""),
        PROBE._replace(port="p" * 256),
        PROBE._replace(host="h" * 260),
        PROBE._replace(bridge="a/b"),
    ],
)
def test_names_that_do_not_fit(wrong: Probe) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode(wrong, KEY, bytes(6), 8)


def test_other_keys_times_and_frames_are_not_ours() -> None:
    for frame, key, now in (
        (FRAME, b"other", NOW),
        (FRAME, KEY, NOW + 60_000),
        (FRAME, KEY, NOW - 60_000),
        (FRAME[:40], KEY, NOW),
        (FRAME[:12] + b"\x08\x06" + FRAME[14:], KEY, NOW),
        (FRAME[:12] + b"\x88\xcc" + bytes(46), KEY, NOW),
        (b"", KEY, NOW),
    ):
        with pytest.raises(NotOurs):
            decode(frame, key, now)


@given(st.integers(14, len(FRAME.rstrip(b"\0")) - 1), st.integers(1, 255))
def test_a_frame_with_any_byte_changed_is_not_ours(place: int, change: int) -> None:
    changed = bytearray(FRAME)
    changed[place] ^= change
    with pytest.raises(NotOurs):
        decode(bytes(changed), KEY, NOW)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoders_fail(data: bytes) -> None:
    for frame in (data, FRAME[:14] + data, FRAME + data):
        try:
            decode(frame, KEY, NOW)
        except NotOurs:
            pass
    for ethertype in (b"\x08\x06", b"\x86\xdd", b"\x08\x00", b"\x81\x00"):
        read(data[:12].ljust(12, b"\0") + ethertype + data[12:])
    parse(data.decode("latin-1"))
