"""`Packet` -> the bytes of a frame that has these header fields (by scapy), the flow that Open vSwitch reads from that
frame, and a text for people. No I/O.

Invariants: Open vSwitch reads from `frame` exactly what `flow` says (a test asks it), so both witnesses speak of one
packet; what no frame can say (`makeable` is False) is not made; the payload says in words what the frame is, for
whoever captures one.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from scapy.layers.inet import ICMP as ICMP_HEADER
from scapy.layers.inet import IP as IPV4_HEADER
from scapy.layers.inet import TCP as TCP_HEADER
from scapy.layers.inet import UDP as UDP_HEADER
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP as SCTP_HEADER
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from ovspane.packets.fields import ICMP, ICMPV6, SCTP, TCP, TRANSPORTS, UDP
from ovspane.packets.match import ETH_IPV4, ETH_IPV6, Packet

PAYLOAD = b"ovspane probe"
#: bytes of what the first of two fragments carries
FRAGMENTED = 1240
LEAST = 60  # bytes of an Ethernet frame without its checksum
ARP_TYPES = (0x0806, 0x8035)

#: Below 0x0600 the field is a length (IEEE 802.3); the others begin a further tag or header, whose EtherType counts
#: instead.
_NOT_A_TYPE = frozenset({0x8100, 0x88A8, 0x9100, 0x894F})
#: RFC 8200, section 4: these numbers begin an extension header; the protocol is that of the header after them.
_EXTENSIONS = frozenset({0, 43, 44, 51, 60})
_NAMES = {number: name for name, number in TRANSPORTS.items()}
_PORT_WORDS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
_PLAIN = Packet()


def makeable(packet: Packet) -> bool:
    """True iff there is a frame with exactly these fields."""
    if packet.eth_type < 0x600 or packet.eth_type in _NOT_A_TYPE:
        return False
    return packet.eth_type != ETH_IPV6 or packet.proto not in _EXTENSIONS


def frame(packet: Packet) -> bytes:
    """The frame, checksums made, at least 60 bytes."""
    layers = Ether(src=_mac(packet.eth_src), dst=_mac(packet.eth_dst), type=0x8100 if packet.vlan else packet.eth_type)
    if packet.vlan:
        layers /= Dot1Q(vlan=packet.vlan, type=packet.eth_type)
    if packet.eth_type == ETH_IPV4:
        addresses = {"src": str(IPv4Address(packet.src)), "dst": str(IPv4Address(packet.dst))}
        layers /= IPV4_HEADER(tos=packet.dscp << 2, proto=packet.proto, **addresses) / _transport(packet)
    elif packet.eth_type == ETH_IPV6:
        addresses = {"src": str(IPv6Address(packet.src)), "dst": str(IPv6Address(packet.dst))}
        layers /= IPv6(tc=packet.dscp << 2, nh=packet.proto, **addresses) / _transport(packet)
    elif packet.eth_type in ARP_TYPES:
        layers /= ARP(op=2, hwsrc=_mac(packet.eth_src), psrc="0.0.0.0", pdst="0.0.0.0")
    else:
        layers /= Raw(bytes(16) + PAYLOAD)
    made = bytes(layers)
    return made + bytes(max(0, LEAST - len(made)))


def fragments(packet: Packet, identification: int) -> tuple[bytes, bytes]:
    """A datagram of TCP or UDP with these fields in two fragments. The first is long enough for the userspace datapath
    to take it for one (ovs-vswitchd(8), dpctl/ipf-set-min-frag)."""
    layers = Ether(src=_mac(packet.eth_src), dst=_mac(packet.eth_dst), type=0x8100 if packet.vlan else packet.eth_type)
    if packet.vlan:
        layers /= Dot1Q(vlan=packet.vlan, type=packet.eth_type)
    v6 = packet.eth_type == ETH_IPV6
    ends = [str(IPv6Address(end) if v6 else IPv4Address(end)) for end in (packet.src, packet.dst)]
    header = IPv6(src=ends[0], dst=ends[1]) if v6 else IPV4_HEADER(src=ends[0], dst=ends[1], proto=packet.proto)
    whole = bytes(header / _transport(packet) / Raw(bytes(FRAGMENTED - len(PAYLOAD))))[40 if v6 else 20 :]
    made = []
    for at, part in ((0, whole[:FRAGMENTED]), (FRAGMENTED, whole[FRAGMENTED:])):
        if v6:
            more = IPv6ExtHdrFragment(nh=packet.proto, offset=at // 8, m=int(not at), id=identification)
            ip = IPv6(tc=packet.dscp << 2, src=ends[0], dst=ends[1]) / more
        else:
            ip = IPV4_HEADER(
                tos=packet.dscp << 2,
                proto=packet.proto,
                id=identification,
                flags="MF" if not at else 0,
                frag=at // 8,
                src=ends[0],
                dst=ends[1],
            )
        made.append(bytes(layers / ip / Raw(part)))
    first, later = made
    return first, later + bytes(max(0, LEAST - len(later)))


def _transport(packet: Packet) -> Layer:
    ports = {"sport": packet.sport, "dport": packet.dport}
    match packet.proto:
        case proto if proto == TCP:
            return TCP_HEADER(flags="A", **ports) / Raw(PAYLOAD)  # not SYN: nobody shall answer what is delivered
        case proto if proto == UDP:
            return UDP_HEADER(**ports) / Raw(PAYLOAD)
        case proto if proto == SCTP:
            return SCTP_HEADER(**ports) / Raw(PAYLOAD)
        case proto if proto == ICMP and packet.eth_type == ETH_IPV4:
            return ICMP_HEADER() / Raw(PAYLOAD)
        case proto if proto == ICMPV6 and packet.eth_type == ETH_IPV6:
            return ICMPv6EchoRequest(data=PAYLOAD)
        case _:
            return Raw(bytes(16) + PAYLOAD)  # what is a type and a code to Open vSwitch (IGMP, labels of MPLS) is 0


def _mac(address: int) -> str:
    return ":".join(f"{byte:02x}" for byte in address.to_bytes(6, "big"))


def flow(packet: Packet) -> str:
    """The frame as a flow in ovs-ofctl's syntax, all fields exact (ovs-fields(7)), but for the port."""
    fields = [f"dl_src={_mac(packet.eth_src)},dl_dst={_mac(packet.eth_dst)},dl_type={packet.eth_type:#06x}"]
    if packet.vlan:
        fields.append(f"vlan_tci={0x1000 | packet.vlan:#06x}")
    if packet.eth_type in ARP_TYPES:
        fields.append(f"arp_op=2,arp_sha={_mac(packet.eth_src)}")
    if packet.eth_type == ETH_IPV4:
        fields.append(f"nw_src={IPv4Address(packet.src)},nw_dst={IPv4Address(packet.dst)}")
    elif packet.eth_type == ETH_IPV6:
        fields.append(f"ipv6_src={IPv6Address(packet.src)},ipv6_dst={IPv6Address(packet.dst)}")
    if packet.eth_type in (ETH_IPV4, ETH_IPV6):
        fields.append(f"nw_proto={packet.proto},ip_dscp={packet.dscp},nw_ttl=64")
        if word := _PORT_WORDS.get(packet.proto):
            fields.append(f"{word}_src={packet.sport},{word}_dst={packet.dport}")
        if packet.proto == TCP:
            fields.append("tcp_flags=0x010")
        elif (packet.eth_type, packet.proto) == (ETH_IPV4, ICMP):
            fields.append("icmp_type=8")
        elif (packet.eth_type, packet.proto) == (ETH_IPV6, ICMPV6):
            fields.append("icmpv6_type=128")
    return ",".join(fields)


def text(packet: Packet) -> str:
    """The packet for people, e.g. `UDP 10.0.0.1:53 > 10.0.0.2:4000 vlan 7`; MAC addresses where they are not the
    usual ones."""
    if packet.eth_type in (ETH_IPV4, ETH_IPV6):
        v6 = packet.eth_type == ETH_IPV6
        ends = [str(IPv6Address(end) if v6 else IPv4Address(end)) for end in (packet.src, packet.dst)]
        if packet.proto in (TCP, UDP, SCTP):
            ends = [f"[{ends[0]}]" if v6 else ends[0], f"[{ends[1]}]" if v6 else ends[1]]
            ends = [f"{ends[0]}:{packet.sport}", f"{ends[1]}:{packet.dport}"]
        words = [
            _NAMES.get(packet.proto, f"{'IPv6' if v6 else 'IPv4'} protocol {packet.proto}"),
            f"{ends[0]} > {ends[1]}",
        ]
        if packet.dscp:
            words.append(f"dscp {packet.dscp}")
    else:
        words = ["ARP" if packet.eth_type == ARP_TYPES[0] else f"ethType 0x{packet.eth_type:04x}"]
    if packet.vlan:
        words.append(f"vlan {packet.vlan}")
    for name, mac, usual in (("srcEth", packet.eth_src, _PLAIN.eth_src), ("dstEth", packet.eth_dst, _PLAIN.eth_dst)):
        if mac != usual:
            words.append(f"{name} {_mac(mac)}")
    return " ".join(words)
