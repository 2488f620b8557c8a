"""`ovspane cleanup`: everything of ours off the bridges, without a daemon."""

from __future__ import annotations

from ovspane.config import Settings
from ovspane.daemon.settings_parts import scope_of
from ovspane.discovery.packet_session import remove_discovery_flows
from ovspane.network.topology import Network
from ovspane.ovsdb.switch_db import SwitchDb
from ovspane.switch.cleaning import Cleaned
from ovspane.switch.cleaning import clean as clean_bridges
from ovspane.switch.fleet import BridgeFleet
from ovspane.switch.flood_control import FloodControl


async def clean(settings: Settings) -> Cleaned:
    """Remove every flow, meter and queue of ours from the bridges, and nothing else. Ports that did not flood by our
    word do again.

    Raises SessionError (a daemon drives a bridge), ConnectionError (no database), TimeoutError.
    """
    switch, scope = SwitchDb(settings.ovsdb), scope_of(settings)

    async def let_ports_flood(fleet: BridgeFleet) -> None:
        await FloodControl(switch, Network(), scope, fleet.drives, keep=False).clean()

    switch.start()
    try:
        if not await switch.wait_until(lambda: switch.connected, 5.0):
            raise ConnectionError(f"no connection to {settings.ovsdb}")
        for name in filter(scope.manages, switch.bridges()):
            await remove_discovery_flows(scope.rundir / f"{name}.mgmt", scope.pipeline)
        return await clean_bridges(switch, scope, let_ports_flood)
    finally:
        await switch.close()
