"""The MAC addresses that a bridge has learnt: the text of `fdb/show`.

Source: ovs-vswitchd(8), fdb/show; ofproto-dpif.c prints a line `port VLAN MAC age` for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ovspane.host.unixctl import ControlSocket, ControlUnavailable

LOCAL_PORT = 0xFFFE


class LearnedAddress(NamedTuple):
    """A MAC address, the OpenFlow port that it was seen at, and how long ago (seconds, rounded down)."""

    port: int
    mac: str
    age: int


def parse(text: str) -> list[LearnedAddress]:
    """The entries; other lines (the heading, static entries) are left out."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 4 or not words[3].isdecimal():
            continue
        if words[0] == "LOCAL":
            found.append(LearnedAddress(LOCAL_PORT, words[2], int(words[3])))
        elif words[0].isdecimal():
            found.append(LearnedAddress(int(words[0]), words[2], int(words[3])))
    return found


class LearningTables:
    """Reads them over one connection, made again when ovs-vswitchd was restarted. It blocks: use it in one thread at a
    time."""

    def __init__(self, rundir: Path) -> None:
        self._rundir = rundir
        self._socket: ControlSocket | None = None

    def read(self, bridges: Sequence[str]) -> Mapping[str, list[LearnedAddress]]:
        """The entries of each bridge that answers. Raises ControlUnavailable when ovs-vswitchd does not."""
        if self._socket is None:
            self._socket = ControlSocket(self._rundir)
        found = {}
        for bridge in bridges:
            try:
                found[bridge] = parse(self._socket.call("fdb/show", bridge))
            except ControlUnavailable as problem:
                if str(problem).startswith("fdb/show"):  # this bridge only: it has just gone
                    continue
                self.close()
                raise
        return found

    def close(self) -> None:
        """End the connection; `read` makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
