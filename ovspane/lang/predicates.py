"""The flowgroup production: predicates over header fields to a Flowgroup value. Pure.

Several predicates on one field intersect. A predicate on an address, transport, port or DSCP says that the packet is
IP, even when its set is the whole range; a port says TCP, UDP or SCTP; the *names* ICMP and ICMPv6 say IPv4 and IPv6
(the numbers 1 and 58 do not). `user` and `srcUser` are one field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ovspane.lang import values
from ovspane.lang.tokens import Cursor
from ovspane.packets.fields import (
    ANY_ADDRESS,
    ANY_DSCP,
    ANY_ETHTYPE,
    ANY_PORT,
    ANY_TRANSPORT,
    ANY_VLAN,
    ICMP,
    ICMPV6,
    IP,
    TRANSPORTS,
    WITH_PORTS,
    AddressSet,
    Ternary,
)
from ovspane.packets.flowgroup import ALL, Contradiction, Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import ETH_IPV4, ETH_IPV6

ANY_MAC = Ternary()
_VERSION_OF = {ICMP: IntervalSet.single(ETH_IPV4), ICMPV6: IntervalSet.single(ETH_IPV6)}


@dataclass(slots=True)
class _Draft:
    """The fields of a flowgroup while its predicates are read; each predicate narrows one field."""

    src_user: str | None = None
    dst_user: str | None = None
    src: AddressSet = ANY_ADDRESS
    dst: AddressSet = ANY_ADDRESS
    sport: IntervalSet = ANY_PORT
    dport: IntervalSet = ANY_PORT
    transport: IntervalSet = ANY_TRANSPORT
    dscp: IntervalSet = ANY_DSCP
    eth_type: IntervalSet = ANY_ETHTYPE
    vlan: IntervalSet = ANY_VLAN
    eth_src: Ternary = ANY_MAC
    eth_dst: Ternary = ANY_MAC
    refusal: str = ""

    def refuse(self, reason: str) -> None:
        self.refusal = self.refusal or reason

    def narrow(self, slot: str, field: str, wanted: IntervalSet) -> None:
        """Intersect one field with a set; `field` is its name in the language."""
        left = getattr(self, slot).intersect(wanted)
        if not left:
            self.refuse(f"no {field} is left by the predicates on it")
        setattr(self, slot, left)

    def finish(self) -> Flowgroup:
        """The flowgroup. Raises Contradiction."""
        if self.refusal:
            raise Contradiction(self.refusal)
        return normalise(
            Flowgroup(
                self.src_user,
                self.dst_user,
                self.src,
                self.dst,
                self.sport,
                self.dport,
                self.transport,
                self.dscp,
                self.eth_type,
                self.vlan,
                self.eth_src,
                self.eth_dst,
            )
        )


def _user(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    name = cursor.name("a user's name")
    slot = "dst_user" if field == "dstUser" else "src_user"
    before = getattr(draft, slot)
    if before is not None and before != name:
        draft.refuse(f"no packet is of two users, {before} and {name}")
    setattr(draft, slot, name)


def _host(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    wanted = values.addresses(cursor)
    slot = "src" if field == "srcHost" else "dst"
    left = getattr(draft, slot).intersect(wanted)
    if not left:
        draft.refuse(f"no {field} is left by the predicates on it")
    setattr(draft, slot, left)
    draft.narrow("eth_type", "ethType", IP)


def _port(cursor: Cursor, draft: _Draft, field: str) -> None:
    if cursor.accept("<="):
        spans = [(0, values.port(cursor))]
    elif cursor.accept(">="):
        spans = [(values.port(cursor), 0xFFFF)]
    else:
        cursor.expect("=", "'=', '<=' or '>='")
        spans = values.ports(cursor)
        for low, high in spans:
            if low > high:
                draft.refuse(f"the range {low}-{high} of {field} is empty")
    draft.narrow("sport" if field == "srcPort" else "dport", field, IntervalSet.of(spans))
    if not draft.transport.intersect(WITH_PORTS):
        draft.refuse("a port needs the transport TCP, UDP or SCTP")
    draft.narrow("transport", "transport", WITH_PORTS)


def _transport(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    number = TRANSPORTS.get(cursor.word)
    if number is not None:
        cursor.at += 1
        if number in _VERSION_OF:
            draft.narrow("eth_type", "ethType", _VERSION_OF[number])
    else:
        number = values.integer(cursor, 0, 255, "TCP, UDP, ICMP, SCTP, ICMPv6 or a number")
    if draft.transport == WITH_PORTS and number not in WITH_PORTS:
        draft.refuse("a port needs the transport TCP, UDP or SCTP")
    draft.narrow("transport", field, IntervalSet.single(number))
    draft.narrow("eth_type", "ethType", IP)


def _eth(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    slot = "eth_src" if field == "srcEth" else "eth_dst"
    left = getattr(draft, slot).intersect(values.mac(cursor))
    if left is None:
        draft.refuse(f"no {field} is left by the predicates on it")
    else:
        setattr(draft, slot, left)


def _eth_type(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    value = values.integer(cursor, 0, 0xFFFF, "an EtherType (0x0800 is IPv4)", hexadecimal=True)
    draft.narrow("eth_type", field, IntervalSet.single(value))


def _vlan(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    draft.narrow("vlan", field, IntervalSet.single(values.integer(cursor, 0, 4094, "a VLAN (0 is untagged)")))


def _dscp(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    draft.narrow("dscp", field, IntervalSet.single(values.integer(cursor, 0, 63, "a DSCP")))
    draft.narrow("eth_type", "ethType", IP)


#: field -> its reader; the order is the order of help and completion
FIELDS: dict[str, Callable[[Cursor, _Draft, str], None]] = {
    "user": _user,
    "srcUser": _user,
    "dstUser": _user,
    "srcHost": _host,
    "dstHost": _host,
    "srcPort": _port,
    "dstPort": _port,
    "transport": _transport,
    "srcEth": _eth,
    "dstEth": _eth,
    "ethType": _eth_type,
    "vlan": _vlan,
    "dscp": _dscp,
}


def flowgroup(cursor: Cursor) -> Flowgroup:
    """Read a flowgroup. An empty one is noted in `cursor.contradiction` and read as all packets: the statement may
    still turn out to be wrong, which weighs more."""
    cursor.expect("(", "a flowgroup: '('")
    if cursor.accept("*"):
        cursor.expect(")")
        return ALL
    if cursor.accept(")"):
        return ALL
    draft = _Draft()
    while True:
        field = cursor.word
        reader = FIELDS.get(field)
        if reader is None:
            raise cursor.fault("a field: " + ", ".join(FIELDS))
        cursor.at += 1
        reader(cursor, draft, field)
        if not cursor.accept(","):
            break
    cursor.expect(")", "',' or ')'")
    try:
        return draft.finish()
    except Contradiction as reason:
        cursor.contradiction = cursor.contradiction or reason
        return ALL
