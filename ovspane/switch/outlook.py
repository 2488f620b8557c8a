"""What the switches can make of requests that are asked for now: said in the reply, before anything is programmed."""

from __future__ import annotations

from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.state.status import Cause, Reason, Remark
from ovspane.switch.away import AwayBridges
from ovspane.switch.datapaths import DatapathSupport
from ovspane.switch.enforcement import Enforcement
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.remarks import remarks, tunnel_ports


class Outlook:
    """Questions about the bridges as they are."""

    def __init__(
        self,
        switch: SwitchDb,
        fleet: BridgeFleet,
        enforcement: Enforcement,
        away: AwayBridges,
        datapaths: DatapathSupport,
    ) -> None:
        self._switch = switch
        self._fleet = fleet
        self._enforcement = enforcement
        self._away = away
        self._datapaths = datapaths

    def unenforced(self, rate: int = 0) -> Reason | None:
        """Why no port of any managed bridge can enforce a guarantee of `rate` (bit/s); None if one can."""
        return self._enforcement.unenforced(self._fleet.rows().values(), rate)

    def unreachable(self) -> Reason | None:
        """Why what is accepted now cannot be installed at once: what is not there, or cannot be reached."""
        if not self._switch.connected:
            return Reason(Cause.NO_SWITCH, detail=self._switch.remote)
        away = next((Reason(Cause.AWAY, name) for name in sorted(self._fleet.rows()) if name in self._away), None)
        return self._fleet.missing() or away

    def remarks(self, group: Flowgroup) -> tuple[Remark, ...]:
        """What is to be said of requests of that flowgroup."""
        return remarks(
            group, tunnel_ports(self._fleet.rows().values()), self._datapaths.last, self._switch.reads_two_tags
        )
