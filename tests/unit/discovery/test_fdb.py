"""Learning tables, as ovs-vswitchd prints them."""

from __future__ import annotations

from ovspane.discovery.discovery import SLICE
from ovspane.discovery.fdb import LearnedAddress, parse


def test_the_learning_table() -> None:
    text = (
        " port  VLAN  MAC                Age\n    1     0  42:cb:87:56:2c:80    1\nLOCAL    20  "
        "00:00:00:00:00:02  299\n"
        "    7     0  00:00:00:00:00:03  static\n garbage\n   x  0  00:00:00:00:00:04  1\n"
    )
    assert parse(text) == [LearnedAddress(1, "42:cb:87:56:2c:80", 1), LearnedAddress(0xFFFE, "00:00:00:00:00:02", 299)]
    assert parse("") == []
    huge = "".join(f"    1     0  02:00:00:00:{n >> 8:02x}:{n & 255:02x}    1\n" for n in range(50_000))
    assert len(parse(huge)) == 50_000 and SLICE < 1000
