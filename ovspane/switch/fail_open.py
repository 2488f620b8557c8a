"""Which bridges fail open: ovs-vswitchd lets every packet pass our flows by, since no controller answers.

The database cannot tell in time: it tells of controllers every five seconds, and with `inactivity_probe` 0 a bridge
fails open 13 ms after its controller is set (Open vSwitch 3.1). No dump of flows shows the flow. So ovs-vswitchd is
asked, by ofproto/trace, what takes a packet; twice a second, and of those bridges only whose settings let it come to
that. Where its control socket is not to be had, the word of the database has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ovspane.host.hidden_flows import fails_open
from ovspane.host.unixctl import ControlSocket, ControlUnavailable
from ovspane.loop import LogOnce
from ovspane.ovsdb.controllers import disconnected, may_fail_open
from ovspane.ovsdb.switch_db import BridgeRow

log = logging.getLogger(__name__)

#: seconds between two looks
CHECK = 0.5
#: how long ovs-vswitchd may take to answer (seconds)
ANSWER = 2.0


class FailOpenWatch:
    """`rows`: the bridges that are ours; `on_change` is called when others fail open than before."""

    def __init__(
        self, rundir: Path, rows: Callable[[], Mapping[str, BridgeRow]], on_change: Callable[[], None]
    ) -> None:
        self._rundir = rundir
        self._rows = rows
        self._on_change = on_change
        self._log = LogOnce(log)
        #: the bridges that fail open
        self.failing: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(CHECK)

    async def look(self) -> None:
        """Ask once."""
        rows = self._rows()
        able = [name for name, row in rows.items() if may_fail_open(row)]
        for name in rows:
            if name not in able:
                self._log.forget(name)
            else:
                self._log.warning(
                    name,
                    "bridge %s has a controller and its fail_mode is not secure: should no controller answer, every "
                    "packet would pass ovspane's flows by",
                    name,
                )
        told = await asyncio.to_thread(self._ask, able) if able else {}
        failing = frozenset(name for name in able if told.get(name, disconnected(rows[name])))
        if failing == self.failing:
            return
        for name in sorted(self.failing - failing):
            log.info("bridge %s does not fail open any more", name)
        for name in sorted(failing - self.failing):
            log.warning("bridge %s fails open: no controller answers, and every packet passes ovspane's flows by", name)
        self.failing = failing
        self._on_change()

    def _ask(self, names: Iterable[str]) -> dict[str, bool]:
        """Of each bridge; those left out of which ovs-vswitchd did not tell. It blocks."""
        told: dict[str, bool] = {}
        try:
            with contextlib.closing(ControlSocket(self._rundir, ANSWER)) as control:
                for name in names:
                    told[name] = fails_open(control.call("ofproto/trace", name, "in_port=LOCAL"))
        except ControlUnavailable as problem:
            log.debug("whether bridges fail open: %s", problem)
        return told
