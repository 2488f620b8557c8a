"""The flowgroup production: predicates over header fields to a Flowgroup value. Pure.

Several predicates on one field intersect. A predicate on an address, transport, port or DSCP says that the packet is
IP, even when its set is the whole range; a port says TCP, UDP or SCTP; the *names* ICMP and ICMPv6 say IPv4 and IPv6
(the numbers 1 and 58 do not). `user` and `srcUser` are one field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ovspane.lang import values
from ovspane.lang.tokens import Cursor
from ovspane.packets.fields import (
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

_VERSION_OF = {ICMP: IntervalSet.single(ETH_IPV4), ICMPV6: IntervalSet.single(ETH_IPV6)}


class _Draft:
    """What the predicates read so far say: fields of a `Flowgroup`, each narrowed by one predicate after the other."""

    __slots__ = ("_said", "refusal")

    def __init__(self) -> None:
        self._said: dict[str, Any] = {}
        self.refusal = ""

    def __getitem__(self, slot: str) -> Any:
        """The value of that field of `Flowgroup`; where nothing was said of it, that of all packets."""
        return self._said.get(slot, getattr(ALL, slot))

    def __setitem__(self, slot: str, value: object) -> None:
        self._said[slot] = value

    def refuse(self, reason: str) -> None:
        self.refusal = self.refusal or reason

    def narrow(self, slot: str, field: str, wanted: IntervalSet | AddressSet | Ternary) -> None:
        """Intersect one field with a set; `field` is its name in the language."""
        left = self[slot].intersect(wanted)
        if left:
            self[slot] = left
        else:
            self.refuse(f"no {field} is left by the predicates on it")

    def finish(self) -> Flowgroup:
        """The flowgroup. Raises Contradiction."""
        if self.refusal:
            raise Contradiction(self.refusal)
        return normalise(Flowgroup(**self._said))


def _user(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    name = cursor.name("a user's name")
    slot = "dst_user" if field == "dstUser" else "src_user"
    before = draft[slot]
    if before is not None and before != name:
        draft.refuse(f"no packet is of two users, {before} and {name}")
    draft[slot] = name


def _host(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    draft.narrow("src" if field == "srcHost" else "dst", field, values.addresses(cursor))
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
    if not draft["transport"].intersect(WITH_PORTS):
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
    if draft["transport"] == WITH_PORTS and number not in WITH_PORTS:
        draft.refuse("a port needs the transport TCP, UDP or SCTP")
    draft.narrow("transport", field, IntervalSet.single(number))
    draft.narrow("eth_type", "ethType", IP)


def _eth(cursor: Cursor, draft: _Draft, field: str) -> None:
    cursor.expect("=")
    draft.narrow("eth_src" if field == "srcEth" else "eth_dst", field, values.mac(cursor))


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
