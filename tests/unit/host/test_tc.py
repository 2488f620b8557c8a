"""What the kernel has against what our rows say, and the kernel's messages about it."""

from __future__ import annotations

import struct

import pytest

from ovspane.host.tc import Rows, differences, remade
from ovspane.host.tc_events import changed_devices

M = 1_000_000
ROWS: Rows = {0: (8 * M, 20 * M), 5: (12 * M, 20 * M), 7: None}
GOOD = {0: (8 * M, 20 * M), 5: (12 * M, 20 * M), 7: (1, 1)}


@pytest.mark.parametrize(
    ("kernel", "found", "anew"),
    [
        (GOOD, {}, False),
        ({0: GOOD[0], 5: GOOD[5]}, {}, False),  # somebody else's row: not ours to judge
        ({**GOOD, 5: (12 * M + 4, 20 * M)}, {}, False),  # bytes a second
        ({**GOOD, 5: (11 * M, 20 * M)}, {5: "queue 5 has 11Mb of 12Mb"}, False),
        ({**GOOD, 5: (12 * M, 15 * M)}, {5: "queue 5 may use 15Mb of 20Mb"}, False),
        ({0: GOOD[0]}, {5: "queue 5 is not in the kernel"}, False),
        ({}, {0: "queue 0 is not in the kernel", 5: "queue 5 is not in the kernel"}, True),  # no root qdisc of ours
        ({**GOOD, 49: (15 * M, 15 * M)}, {0: "somebody else's class 1:32 has 15Mb"}, True),
        ({49: (15 * M, 15 * M)}, {0: "queue 0 is not in the kernel", 5: "queue 5 is not in the kernel"}, True),
    ],
)
def test_what_differs_and_what_helps(kernel: dict[int, tuple[int, int]], found: dict[int, str], anew: bool) -> None:
    assert differences(ROWS, kernel) == found
    assert remade(ROWS, kernel) is anew


def message(kind: int, device: int, cut: int = 0) -> bytes:
    body = struct.pack("=BxxxiIII", 0, device, 0x10000, 0xFFFFFFFF, 0) + b"\0\5\0\1ab\0\0"
    return (struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body)[: None if not cut else -cut]


def test_devices_of_the_kernel_s_messages() -> None:
    """RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTCLASS, RTM_DELTCLASS; what is cut short or of no length ends it."""
    assert list(changed_devices(message(36, 3) + message(37, 4) + message(40, 5) + message(41, 6))) == [3, 4, 5, 6]
    assert list(changed_devices(message(16, 3) + message(41, 6))) == [6]
    assert list(changed_devices(message(36, 3) + message(37, 4, cut=1))) == [3]
    assert list(changed_devices(message(36, 3) + bytes(40))) == [3]
    assert list(changed_devices(b"\1")) == []
