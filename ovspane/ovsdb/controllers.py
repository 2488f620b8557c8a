"""What the controllers of a bridge, and the managers of its database, make ovs-vswitchd do by hidden flows: flows of
table 0 that come before any that OpenFlow can add, and that no dump of flows shows. Pure.

* fail-open (Open vSwitch, ofproto/fail-open.c): once no controller has answered for three probe intervals (at once
  where `inactivity_probe` is 0), one flow takes every packet, unless fail_mode is secure.
* in-band control (ofproto/in-band.c): for each controller and manager by IPv4 that is not `out-of-band`, from when it
  is set, on every bridge without other_config:disable-in-band; what is said here was compared with bridge/dump-flows of
  Open vSwitch 3.1. Its flow for DHCP takes what comes from the bridge's own port only, that is, from this host: here
  it counts for a host that has no address yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address

from ovspane.ovsdb.switch_db import BridgeRow, RemoteRow
from ovspane.packets.fields import TCP, UDP
from ovspane.packets.match import ETH_IPV4, Match

_ARP = 0x0806
_ACTIVE = ("tcp", "ssl", "unix")
_CONTROLLER_PORT, _MANAGER_PORT = 6653, 6640
_LOCAL_PORT = 0xFFFE


def may_fail_open(bridge: BridgeRow) -> bool:
    """True iff Open vSwitch lets everything pass when the controllers of the bridge are lost."""
    active = any(remote.target.split(":")[0] in _ACTIVE for remote in bridge.controllers)
    return bridge.fail_mode != "secure" and active


def disconnected(bridge: BridgeRow) -> bool:
    """True iff no controller is connected, as far as the database tells."""
    return not any(remote.connected for remote in bridge.controllers)


def in_band(bridge: BridgeRow) -> dict[str, tuple[Match, ...]]:
    """What the in-band flows of the bridge take: what it is called -> matches that cover it. Empty: there are none."""
    if bridge.other_config.get("disable-in-band") == "true":
        return {}
    ends = [*_ends(bridge.controllers, _CONTROLLER_PORT), *_ends(bridge.managers, _MANAGER_PORT)]
    if not ends:
        return {}
    found = {f"TCP of {address or 'any host'}:{port}": _tcp(address, port) for address, port in ends}
    local = bridge.interface(bridge.name)
    mac = {"eth_src": int(local.mac.replace(":", ""), 16)} if local is not None and local.mac else {}
    dhcp = Match.of(eth_type=ETH_IPV4, ip_proto=UDP, tp_src=68, tp_dst=67, ipv4_src=0, in_port=_LOCAL_PORT, **mac)
    return found | {"ARP": (Match.of(eth_type=_ARP),), "DHCP of this host": (dhcp,)}


def _tcp(address: IPv4Address | None, port: int) -> tuple[Match, Match]:
    to = {"ipv4_dst": int(address)} if address is not None else {}
    of = {"ipv4_src": int(address)} if address is not None else {}
    return (
        Match.of(eth_type=ETH_IPV4, ip_proto=TCP, tp_dst=port, **to),
        Match.of(eth_type=ETH_IPV4, ip_proto=TCP, tp_src=port, **of),
    )


def _ends(remotes: Iterable[RemoteRow], usual: int) -> Iterator[tuple[IPv4Address | None, int]]:
    """(address, port) of those that are in-band; None: a name, whose address is not known here."""
    for remote in remotes:
        kind, _, rest = remote.target.partition(":")
        if kind not in ("tcp", "ssl") or not remote.in_band or rest.startswith("["):  # none by IPv6
            continue
        host, _, port = rest.partition(":")
        number = int(port) if port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16 else usual
        try:
            yield IPv4Address(host), number
        except AddressValueError:
            yield None, number
