"""Which ports tell where a host is attached, and which not yet. No I/O.

An attachment that is late is better than a wrong one: what is seen at a port counts only SETTLE ms after the port came
up, since a link to another bridge may not be known sooner; all MAC addresses behind it would seem to be attached there.
For the same reason it does not count for UNLINKED ms after probes of a link stopped arriving at a port that stayed up:
frames may only be late on a busy host.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from ovspane.lang.units import Ms
from ovspane.network.model import PortId

#: ms after which what is seen at a port counts
SETTLE = 1000
#: and ms after its link was lost, while it stays up
UNLINKED = 10_000


class PortSettling:
    """When ports came up and lost their links (ms). `probing`: whether links are found by probes at all; if not there
    is nothing to wait for."""

    def __init__(self, probing: bool) -> None:
        self._probing = probing
        self._up_since: dict[PortId, int] = {}
        self._unlinked: dict[PortId, int] = {}  # when a port lost the link that probes had found

    def set_up(self, up: Iterable[PortId], now: Ms) -> bool:
        """These ports are up, all others are not. Whether one came up."""
        before = self._up_since
        self._up_since = {port: before.get(port, now) for port in up}
        return bool(self._up_since.keys() - before.keys())

    def lose_link(self, port: PortId, now: Ms) -> None:
        """A link at this port was lost."""
        if port in self._up_since:
            self._unlinked[port] = now

    def forget(self, there: Container[PortId]) -> None:
        """Only these ports exist."""
        self._unlinked = {port: when for port, when in self._unlinked.items() if port in there}

    def is_settled(self, port: PortId, now: Ms) -> bool:
        """Whether what is seen at the port counts."""
        since = self._up_since.get(port)
        if since is None or not self._probing:
            return since is not None
        return now - since >= SETTLE and not since <= self._unlinked.get(port, 0) > now - UNLINKED
