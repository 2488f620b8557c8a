"""Ingress policing: what a port may send into the switch at most, all its traffic together, as the configuration says
([police]).

The columns ingress_policing_rate and _burst of Interface (ovs-vswitchd.conf.db(5)); packets beyond the rate are dropped
before any flow sees them, so it costs no meter and holds whatever the flows say.

Invariants: a rate that somebody else set is never overwritten: external_ids:ovspane-police says which rate is ours, and
where the interface's rate differs from that, it is theirs. What is no longer asked for, and `clean`, set ours back to
none. Nothing is remembered between two calls: what is wanted is the configuration's, what is there the rows', so the
difference is a function of the two, made when rows may have changed: there is nothing for a tracker to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ovspane.lang.units import BitsPerSecond, rate_text
from ovspane.ovsdb.queue_plan import POLICING_64, enforceable, unrepresentable
from ovspane.ovsdb.switch_db import BridgeRow, InterfaceRow, SwitchDb, Transaction

MARK: Final = "ovspane-police"  # external_ids of an interface that we police: the rate that we set, in kbit/s
BURST_SECONDS: Final = 0.5  # as of a limit's meter (placement.pipeline), for the same reason
LEAST_BURST: Final = 25  # kbit: two full-sized Ethernet frames
FRAMES: Final = 2  # that fit the burst, of what the interface carries
LARGEST: Final = 2**32 - 1  # kbit/s: ovs-vswitchd makes it of a larger one (vswitchd/bridge.c, netdev_set_policing)


@dataclass(frozen=True, slots=True)
class PolicingChange:
    """Set the policing of an interface: rate and burst in kbit/s and kbit, `mark` whether it is ours then."""

    interface: str
    rate: int
    burst: int
    mark: bool


def policing(
    wanted: Mapping[str, int], interfaces: Iterable[tuple[InterfaceRow, BridgeRow]], ovs_version: str
) -> tuple[list[PolicingChange], dict[str, str]]:
    """What to set, that each interface has the rate that is `wanted` for it (bit/s), and where that is not to be
    had, and why. Rates are rounded down to whole kbit/s, but for the least, which is one."""
    steps: list[PolicingChange] = []
    refused: dict[str, str] = {}
    for interface, bridge in interfaces:
        text = interface.external_ids.get(MARK)
        marked = text is not None
        theirs = interface.policing_rate != 0 and str(interface.policing_rate) != text
        asked = wanted.get(interface.name, 0)
        rate = max(1, asked // 1000) if asked else 0
        reason = _unable(asked, interface, bridge, ovs_version) if rate else None
        if theirs and rate:
            refused[interface.name] = "somebody else polices it, with ingress_policing_rate"
        elif reason is not None:
            refused[interface.name] = f"it cannot be policed: {reason}"
        if theirs:
            if marked:  # ours no more
                steps.append(PolicingChange(interface.name, interface.policing_rate, interface.policing_burst, False))
        elif rate and reason is None:
            burst = max(int(rate * BURST_SECONDS), LEAST_BURST, -(-FRAMES * interface.largest_frame * 8 // 1000))
            if (interface.policing_rate, interface.policing_burst, marked) != (rate, burst, True):
                steps.append(PolicingChange(interface.name, rate, burst, True))
        elif marked:
            steps.append(PolicingChange(interface.name, 0, 0, False))
    return steps, refused


def _unable(rate: int, interface: InterfaceRow, bridge: BridgeRow, ovs_version: str) -> str | None:
    """Why this rate (bit/s) would not be what the interface is policed to."""
    if rate // 1000 > LARGEST:
        return f"at most {rate_text(BitsPerSecond(LARGEST * 1000))} can be asked of Open vSwitch"
    return enforceable(interface, bridge) or unrepresentable(rate, ovs_version, POLICING_64)


class PolicingSync:
    """Brings the interfaces of the managed bridges to what is wanted."""

    def __init__(self, db: SwitchDb, manages: Callable[[str], bool], wanted: Mapping[str, int]) -> None:
        """`wanted`: interface name -> bit/s."""
        self._db = db
        self._manages = manages
        self._wanted = wanted

    async def sync(self, *, seconds: float = 10.0) -> dict[str, str]:
        """Make it so; interface -> why not. Raises OvsdbError."""
        return await self._bring(self._wanted, seconds)

    async def clean(self, *, seconds: float = 10.0) -> None:
        """Take ours away everywhere. Raises OvsdbError."""
        await self._bring({}, seconds)

    async def _bring(self, wanted: Mapping[str, int], seconds: float) -> dict[str, str]:
        steps, refused = self._difference(wanted)
        if not steps:  # the usual case, without a transaction
            return refused

        def build(_: Transaction) -> None:
            nonlocal refused
            steps, refused = self._difference(wanted)
            rows = {row.name: row for row in self._db.rows("Interface").values()}
            for step in steps:
                _write(step, rows[step.interface])

        await self._db.apply(build, seconds=seconds)
        return refused

    def _difference(self, wanted: Mapping[str, int]) -> tuple[list[PolicingChange], dict[str, str]]:
        return policing(wanted, self._interfaces(), self._db.ovs_version)

    def _interfaces(self) -> list[tuple[InterfaceRow, BridgeRow]]:
        return [
            (interface, bridge)
            for bridge in self._db.bridges().values()
            if self._manages(bridge.name)
            for port in bridge.ports.values()
            for interface in port.interfaces
        ]


def _write(step: PolicingChange, row: Any) -> None:
    for column in ("ingress_policing_rate", "ingress_policing_burst", "external_ids"):
        row.verify(column)
    if (row.ingress_policing_rate, row.ingress_policing_burst) != (step.rate, step.burst):
        row.ingress_policing_rate = step.rate
        row.ingress_policing_burst = step.burst
    if step.mark:
        row.setkey("external_ids", MARK, str(step.rate))
    else:
        row.delkey("external_ids", MARK)
