"""Flows and meters as the text that `ovs-ofctl -O OpenFlow14` reads, for people and for loading a table by hand. Pure.

The syntax is that of ovs-ofctl(8), ovs-fields(7) and ovs-actions(7).

Invariant: a flow loaded from its text and read back over OpenFlow is the flow
(tests/switch/placement/test_ofctl_text.py); so the text says what `openflow.flow_mods.flow_mod` sends, and numbers
stand for themselves: no port, table or meter names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ovspane.packets.match import (
    CONJ_MASK,
    CONJ_SHIFT,
    ETH_IPV4,
    ETH_IPV6,
    FRAGMENT,
    INVALID,
    LATER,
    LAYOUT,
    PORT_VLAN_MASK,
    PORT_VLAN_SHIFT,
    SECOND,
    TRACKED,
    Match,
)
from ovspane.placement.flow_rules import FlowRule, Instructions, Meter

#: (EtherType, protocol) -> the word of ovs-ofctl that says both (ovs-ofctl(8), "Flow Syntax"); protocol None: any
_WORDS: dict[tuple[int, int | None], str] = {
    (ETH_IPV4, None): "ip",
    (ETH_IPV4, 1): "icmp",
    (ETH_IPV4, 6): "tcp",
    (ETH_IPV4, 17): "udp",
    (ETH_IPV4, 132): "sctp",
    (ETH_IPV6, None): "ipv6",
    (ETH_IPV6, 6): "tcp6",
    (ETH_IPV6, 17): "udp6",
    (ETH_IPV6, 58): "icmp6",
    (ETH_IPV6, 132): "sctp6",
    (0x0806, None): "arp",
}
#: our field -> (its name there, how its numbers are written); EtherType, protocol and mark are done apart
_NAMES = {
    "in_port": ("in_port", "number"),
    "eth_src": ("dl_src", "mac"),
    "eth_dst": ("dl_dst", "mac"),
    "vlan": ("vlan_vid", "hex"),
    "ipv4_src": ("nw_src", "v4"),
    "ipv4_dst": ("nw_dst", "v4"),
    "ipv6_src": ("ipv6_src", "v6"),
    "ipv6_dst": ("ipv6_dst", "v6"),
    "ip_dscp": ("ip_dscp", "number"),
    "tp_src": ("tp_src", "number"),
    "tp_dst": ("tp_dst", "number"),
}
#: (which of the bits FRAGMENT and LATER count, what they are) -> the word (ovs-fields(7), ip_frag)
_FRAGMENTS = {(1, 1): "yes", (3, 0): "no", (3, 1): "first", (3, 3): "later"}
#: of a tracked packet: our field, and that of its datagram
_DATAGRAM = {"ip_proto": "ct_nw_proto", "tp_src": "ct_tp_src", "tp_dst": "ct_tp_dst"}
#: the register and the mask of the bit that hold the mark (oxm.py has them for the wire)
_MARK, _MARK_MASK = "reg15", 1
#: and the register of the port's VLAN (oxm_state)
_PORT_VLAN = "reg12"
#: and the bit of a second crossing
_SECOND_MASK = 2


def match_fields(match: Match) -> dict[str, str]:
    """The match by ovs-ofctl's field names, in the order in which people read it; a word as `tcp` has an empty text.

    The match has to be one that OpenFlow can say (ports with their protocol, and so on), as all of ours are.
    """
    fields = {name: (value, mask) for name, value, mask in match.fields()}
    out = {"conj_id": str((match.value & CONJ_MASK) >> CONJ_SHIFT)} if match.mask & CONJ_MASK else {}
    datagram = {}
    if match.of_datagram:
        for ours, there in _DATAGRAM.items():
            if ours in fields:
                datagram[there] = _masked(*fields.pop(ours), (1 << LAYOUT[ours][1]) - 1, "number")
    out |= _protocol(fields)
    out |= _state(match)
    out |= datagram
    for name, (there, form) in _NAMES.items():
        if name in fields:
            out[there] = _masked(*fields[name], (1 << LAYOUT[name][1]) - 1, form)
    if "mark" in fields:
        out[_MARK] = f"{fields['mark'][0]:#x}/{_MARK_MASK:#x}"
    if match.mask & PORT_VLAN_MASK:
        value, mask = ((bits & PORT_VLAN_MASK) >> PORT_VLAN_SHIFT for bits in match)
        out[_PORT_VLAN] = f"{value:#x}/{mask:#x}"
    if match.mask & SECOND:
        out[_MARK] = f"{_SECOND_MASK if match.value & SECOND else 0:#x}/{_SECOND_MASK:#x}"
    return out


def _state(match: Match) -> Iterator[tuple[str, str]]:
    bits = match.mask & (FRAGMENT | LATER)
    if bits:
        yield "ip_frag", _FRAGMENTS[bits // FRAGMENT, match.value // FRAGMENT & 3]
    flags = [
        f"{'+' if match.value & bit else '-'}{name}"
        for name, bit in (("trk", TRACKED), ("inv", INVALID))
        if match.mask & bit
    ]
    if flags:
        yield "ct_state", "".join(flags)


def _protocol(fields: dict[str, tuple[int, int]]) -> Iterator[tuple[str, str]]:
    if "eth_type" not in fields:
        return
    eth_type = fields["eth_type"][0]
    proto = fields["ip_proto"][0] if "ip_proto" in fields else None
    if (eth_type, proto) in _WORDS:
        yield _WORDS[eth_type, proto], ""
        return
    yield (_WORDS[eth_type, None], "") if (eth_type, None) in _WORDS else ("dl_type", f"{eth_type:#06x}")
    if proto is not None:
        yield "nw_proto", str(proto)


def _masked(value: int, mask: int, ones: int, form: str) -> str:
    text = _number(value, form)
    if mask == ones:
        return text
    if form in ("v4", "v6"):
        rest = ones ^ mask
        if not rest & rest + 1:  # a prefix: the wild bits are the lowest ones
            return f"{text}/{mask.bit_count()}"
    return f"{value:#x}/{mask:#x}" if form == "number" else f"{text}/{_number(mask, form)}"


def _number(value: int, form: str) -> str:
    match form:
        case "mac":
            return value.to_bytes(6, "big").hex(":")
        case "v4":
            return str(ipaddress.IPv4Address(value))
        case "v6":
            return str(ipaddress.IPv6Address(value))
        case "hex":
            return f"{value:#x}"
        case _:
            return str(value)


def match_text(match: Match) -> str:
    """As `tcp,nw_src=10.0.0.0/8,tp_dst=80`; empty for every packet."""
    return ",".join(f"{name}={text}" if text else name for name, text in match_fields(match).items())


def actions_text(wanted: Instructions) -> str:
    """As `meter:1000003,goto_table:141`; `drop` for none."""
    parts = [f"conjunction({number},{k}/{n})" for number, k, n in wanted.conjunctions]
    if wanted.meter is not None:
        parts.append(f"meter:{wanted.meter}")
    if wanted.untrack:
        parts.append("ct_clear")
    if wanted.set_mark:
        parts.append("load:0x1->NXM_NX_REG15[0]")
    if wanted.port_vlan is not None:
        parts.append(f"load:{wanted.port_vlan:#x}->NXM_NX_REG12[0..11]")
    if wanted.set_second:
        parts.append("load:0x1->NXM_NX_REG15[1]")
    if wanted.set_queue is not None:
        parts.append(f"set_queue:{wanted.set_queue}")
    if wanted.output is not None:
        parts.append(f"output:{wanted.output}")
    if wanted.resubmit is not None:
        parts.append(f"resubmit(,{wanted.resubmit})")
    if wanted.track is not None:
        parts.append(f"ct(table={wanted.track[0]},zone={wanted.track[1]})")
    if wanted.goto is not None:
        parts.append(f"goto_table:{wanted.goto}")
    return ",".join(parts) or "drop"


def flow_text(rule: FlowRule) -> str:
    """One line of `ovs-ofctl -O OpenFlow14 add-flows`."""
    head = f"cookie={rule.cookie:#x},table={rule.table},priority={rule.priority}"
    return ",".join(filter(None, (head, match_text(rule.match), f"actions={actions_text(rule.instructions)}")))


def meter_text(meter: Meter) -> str:
    """The argument of `ovs-ofctl -O OpenFlow14 add-meter BRIDGE`; rate and burst as `openflow.meters.as_programmed`
    rounds them."""
    rate, burst = max(1, meter.rate // 1000), max(1, -(-meter.burst // 1000))
    return f"meter={meter.id},kbps,burst,stats,band=type=drop,rate={rate},burst_size={burst}"
