"""File descriptors: whether the daemon may open as many as it can come to need, said at the start rather than when they
run out (ulimit -n; LimitNOFILE= of the unit)."""

from __future__ import annotations

import logging
import resource
from typing import Final

from ovspane.server.accepting import DEFAULT_CAPS, RESERVED_FDS

log = logging.getLogger(__name__)

#: descriptors for the daemon itself (databases, listeners, netlink), and for each bridge (OpenFlow sessions of passes,
#: of discovery and of the flood tree, one more while one is replaced)
BASE: Final = RESERVED_FDS
EACH_BRIDGE: Final = 4


def needed(listeners: int, bridges: int) -> int:
    """How many the daemon can come to need."""
    return BASE + EACH_BRIDGE * bridges + DEFAULT_CAPS.total * listeners


def shortage(limit: int, listeners: int, bridges: int) -> str:
    """What is to be said of a limit, "" where it is enough. Connections are turned away in time to leave the rest to
    the switches; where not even that is left bridges cannot be programmed."""
    need = needed(listeners, bridges)
    if limit == resource.RLIM_INFINITY or limit >= need:
        return ""
    text = f"the limit of open files is {limit} (ulimit -n), and up to {need} can be needed: "
    own = BASE + EACH_BRIDGE * bridges
    if limit <= own:
        return text + f"{own} for databases and {bridges} bridges alone, so requests may not come into force; raise it"
    return text + f"from {limit - BASE} connections on, others are turned away; raise it"


def prepare(listeners: int, bridges: int) -> int:
    """Take as many as the hard limit allows, and say so if that is too low. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = needed(listeners, bridges)
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if text := shortage(soft, listeners, bridges):
        log.warning("%s", text)
    return soft
