"""Hidden flows of a bridge (host.hidden_flows) as values that the walk understands: which packets ovs-vswitchd takes
before any flow of OpenFlow does. Text to values, no I/O.

Those of fail-open and of in-band control forward by NORMAL. What they match by and the walk has no field for (what ARP
says of itself) is left out and named: it is taken for granted then.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from ovspane.dataplane.tables import LOCAL, NORMAL, Flow, Output
from ovspane.host.hidden_flows import hidden_flows
from ovspane.packets.fields import TCP, UDP
from ovspane.packets.match import ETH_IPV4, Match

_PROTOCOLS = {
    "ip": {"eth_type": ETH_IPV4},
    "tcp": {"eth_type": ETH_IPV4, "ip_proto": TCP},
    "udp": {"eth_type": ETH_IPV4, "ip_proto": UDP},
}
_FIELDS = {
    "nw_src": "ipv4_src", "nw_dst": "ipv4_dst", "tp_src": "tp_src", "tp_dst": "tp_dst",
    "dl_src": "eth_src", "dl_dst": "eth_dst",
}  # fmt: skip


def read_hidden(dump: str) -> tuple[list[Flow], list[str]]:
    """(those that are understood, a text of each other one), of the text of bridge/dump-flows."""
    flows, left_out = [], []
    for priority, match, actions in hidden_flows(dump):
        flow = _flow(priority, filter(None, match.split(","))) if actions == "NORMAL" else None
        if flow is not None:
            flows.append(flow)
        else:
            left_out.append(f"priority={priority},{match},actions={actions}")
    return flows, left_out


def _flow(priority: int, words: Iterable[str]) -> Flow | None:
    fields: dict[str, int] = {}
    in_port = None
    for word in words:
        name, _, value = word.partition("=")
        if word in _PROTOCOLS:
            fields |= _PROTOCOLS[word]
        elif name == "in_port" and (value == "LOCAL" or value.isdecimal()):
            in_port = LOCAL if value == "LOCAL" else int(value)
        elif name in _FIELDS and (number := _number(value)) is not None:
            fields[_FIELDS[name]] = number
        else:
            return None
    return Flow(0, priority, Match.of(**fields), (Output(NORMAL),), in_port=in_port)


def _number(text: str) -> int | None:
    """An exact port, IPv4 or MAC address."""
    try:
        if ":" in text:
            return int(text.replace(":", ""), 16)
        return int(IPv4Address(text)) if "." in text else int(text)
    except ValueError:
        return None
