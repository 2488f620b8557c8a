"""What the datapaths of bridges can do with fragments: the text of `dpif/show-dp-features`, asked once of each bridge.

Source: ovs-vswitchd(8), dpif/show-dp-features; ofproto/ofproto-dpif.c has the lines (`CT state: Yes`). Without zones
(a kernel without CONFIG_NF_CONNTRACK_ZONES) every ct action fails, since ovs-vswitchd always names one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from ovspane.host.unixctl import ControlSocket, ControlUnavailable
from ovspane.loop import LogOnce
from ovspane.ovsdb.switch_db import BridgeRow
from ovspane.placement.fragments import FragmentSupport

log = logging.getLogger(__name__)

#: how long ovs-vswitchd may take to answer (seconds)
PATIENCE = 2.0
#: what is needed to gather fragments
_NEEDED = {"CT state", "CT zone", "CT orig tuple", "CT orig tuple for IPv6", "Recirc"}

#: name, row, datapath_type
_Key = tuple[str, UUID, str]


def parse_features(text: str) -> frozenset[str]:
    """The features that are there."""
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(name.strip() for name, _, value in lines if value.strip() == "Yes")


class DatapathSupport:
    """Of each bridge, what was found when it was seen first. While ovs-vswitchd does not answer: that all can be done;
    it is asked again."""

    def __init__(self, rundir: Path) -> None:
        self._rundir = rundir
        self._known: dict[_Key, FragmentSupport] = {}
        #: what was said last
        self.last: dict[str, FragmentSupport] = {}
        self._log = LogOnce(log)

    async def of(self, bridges: Mapping[str, BridgeRow]) -> dict[str, FragmentSupport]:
        """What each of these can do."""
        ids = {name: (name, row.uuid, row.datapath_type) for name, row in bridges.items()}
        self._known = {key: found for key, found in self._known.items() if key in ids.values()}
        if fresh := [key for key in ids.values() if key not in self._known]:
            try:
                self._known |= await asyncio.to_thread(self._ask, fresh)
                self._log.forget("features")
            except ControlUnavailable as problem:
                self._log.warning("features", "what datapaths can do with fragments is not known: %s", problem)
        self.last = {
            name: self._known.get(key, FragmentSupport(True, _is_kernel(bridges[name]))) for name, key in ids.items()
        }
        return self.last

    def _ask(self, keys: list[_Key]) -> dict[_Key, FragmentSupport]:
        found = {}
        control = ControlSocket(self._rundir, PATIENCE)
        try:
            for key in keys:
                features = parse_features(control.call("dpif/show-dp-features", key[0]))
                found[key] = FragmentSupport(features >= _NEEDED, key[2] in ("", "system"))
        finally:
            control.close()
        return found


def _is_kernel(bridge: BridgeRow) -> bool:
    return bridge.datapath_type in ("", "system")
