"""Facts of this network namespace's kernel, by netlink: which devices are veth peers, speeds, addresses, neighbours.

It blocks: call it in a thread. Devices are told apart by name and index, since ovs-vswitchd may live in another network
namespace than we; what is not the same device is left out.

A veth peer in another namespace has no name here (rtnetlink(7): IFLA_LINK with IFLA_LINK_NETNSID), so it is no link
that we can find.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

_REACHED = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT (linux/neighbour.h)
_AF_INET, _AF_INET6 = 2, 10


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """Of the devices asked for. `peers`: device -> its veth peer; `speeds` in bit/s; `addresses`: device -> (MAC,
    its own IP addresses); `neighbours`: (MAC, IP) that the kernel talks to by them."""

    peers: Mapping[str, str] = field(default_factory=dict)
    speeds: Mapping[str, int] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    neighbours: frozenset[tuple[str, str]] = frozenset()


def read_kernel(devices: Mapping[str, int], own: frozenset[str], physical: frozenset[str]) -> KernelFacts:
    """Facts of these devices (name -> index). `own`: those through which this host itself speaks, whose addresses
    and neighbours are wanted; `physical`: those whose speed is. Raises OSError when the kernel refuses."""
    from pyroute2 import IPRoute  # slow to import, and not needed without discovery
    from pyroute2.netlink.exceptions import NetlinkError

    # it logs each attribute of each message, and its import sets the level
    logging.getLogger("pyroute2").setLevel(logging.ERROR)
    try:
        with IPRoute() as netlink:
            names, macs, peers = {}, {}, {}
            for link in netlink.get_links():
                name = link.get_attr("IFLA_IFNAME")
                if devices.get(name) != link["index"]:
                    continue
                names[link["index"]] = name
                macs[name] = link.get_attr("IFLA_ADDRESS")
                kind = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
                if kind == "veth" and link.get_attr("IFLA_LINK_NETNSID") is None and link.get_attr("IFLA_LINK"):
                    peers[link["index"]] = link.get_attr("IFLA_LINK")
            addresses: dict[str, list[str]] = {name: [] for name in names.values() if name in own}
            neighbours = set()
            if addresses:
                for entry in netlink.get_addr():
                    if (name := names.get(entry["index"])) in addresses:
                        addresses[name].append(entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))
                for family in (_AF_INET, _AF_INET6):
                    for entry in netlink.get_neighbours(family):
                        mac = entry.get_attr("NDA_LLADDR")
                        if names.get(entry["ifindex"]) in addresses and entry["state"] & _REACHED and mac:
                            neighbours.add((mac, entry.get_attr("NDA_DST")))
    except NetlinkError as problem:
        raise OSError(problem.code, str(problem)) from problem
    return KernelFacts(
        {names[index]: names[peer] for index, peer in peers.items() if peer in names},
        _speeds(sorted(physical & set(names.values()))),
        {name: (macs[name], tuple(found)) for name, found in addresses.items() if macs[name]},
        frozenset(neighbours),
    )


def _speeds(devices: list[str]) -> dict[str, int]:
    """Of these devices, in bit/s, as ethtool(8) shows them. Open vSwitch 3.1 reports 10M, 100M, 1G, 10G, 40G, 100G and
    1T only (OpenFlow 1.0's bits)."""
    from pyroute2.ethtool import Ethtool

    found: dict[str, int] = {}
    try:
        ethtool = Ethtool()
    except Exception as problem:  # noqa: BLE001  no ethtool netlink in this kernel: Open vSwitch's figure has to do
        log.debug("no ethtool: %s", problem)
        return found
    try:
        for device in devices:
            try:
                speed = ethtool.get_link_mode(device).speed
            except Exception as problem:  # noqa: BLE001  pyroute2 raises many things where a driver has no answer
                log.debug("speed of %s: %s", device, problem)
                continue
            if isinstance(speed, int) and 0 < speed < 0xFFFFFFFF:
                found[device] = speed * 1_000_000
    finally:
        ethtool.close()
    return found
