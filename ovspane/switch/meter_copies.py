"""Copies of a bridge's meters, whoever made them: taken before a restart of ovs-vswitchd, and made again after it.

A flow that names a meter which is not there is refused, and Open vSwitch's own script (ovs-save) keeps flows but no
meters, so what it restores is refused as a whole, flows of everybody. Nothing is changed that is there already.
"""

from __future__ import annotations

from pathlib import Path

from ovspane.openflow.bridge_reader import BridgeReader
from ovspane.openflow.errors import METER_EXISTS
from ovspane.openflow.meters import copies
from ovspane.openflow.session import RequestRefused


class MeterCopier(BridgeReader):
    """A session with a bridge: `async with MeterCopier(RUNDIR/BRIDGE.mgmt) as session`."""

    async def restore(self, config: bytes) -> int:
        """Make the meters of what `raw_meters` gave, where there is none of that number; gives how many are there now.
        Raises RequestRefused, SessionError."""
        async with self._operation():
            requests = self._parsed(copies, config)
        for request in requests:
            try:
                async with self._operation():
                    await self._complete([request])
            except RequestRefused as refused:
                if (refused.error.type, refused.error.code) != METER_EXISTS:
                    raise
        return len(requests)


async def save_meters(socket: Path, file: Path) -> bool:
    """Copy a bridge's meters to a file; False: it has none. Raises SessionError, TimeoutError, OSError."""
    async with MeterCopier(socket) as session:
        config = await session.raw_meters()
    if config:
        file.write_bytes(config)
    return bool(config)


async def restore_meters(socket: Path, file: Path) -> int:
    """Make them again, where they are not there; gives how many. Raises RequestRefused, SessionError, TimeoutError,
    OSError."""
    config = file.read_bytes()
    async with MeterCopier(socket) as session:
        return await session.restore(config)
