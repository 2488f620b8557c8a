"""The parts of discovery without a switch: frames in and out, what hosts say, learning tables, rows of the database,
pictures."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from ovspane.cli.topology_command import draw
from ovspane.cli.topology_picture import dot, svg
from ovspane.config import ConfigError, load
from ovspane.discovery.discovery import SLICE, Discovery
from ovspane.discovery.fdb import LearnedAddress, parse
from ovspane.discovery.lldp import NotOurs, Probe, decode, encode
from ovspane.discovery.local import links_of, ports_of
from ovspane.discovery.probing import LinkProbes
from ovspane.discovery.settings import DiscoverySettings
from ovspane.discovery.settling import UNLINKED
from ovspane.discovery.snoop import Sighting, read
from ovspane.network.listing import list_network
from ovspane.network.model import Bridge, Origin, Port, PortId, StaticHost, link_key
from ovspane.network.topology import Network
from ovspane.ovsdb.switch_db import BridgeRow, InterfaceRow, PortRow, SwitchDb

KEY, NOW, MAC = b"key", 1_700_000_000_000, "02:00:00:00:00:01"
PROBE = Probe(0x1234, "host", "br0", "eth0", NOW, 7)
FRAME = encode(PROBE, KEY, bytes.fromhex("020000000001"), 8)


def test_a_port_whose_link_is_not_heard_of_any_more_has_no_hosts_at_once() -> None:
    """Frames may only be late; and all behind the link would seem to be attached there."""
    network, near, far = Network(), PortId("br0", "a"), PortId("h2/br0", "b")
    for port in (near, far):
        network.see_bridge(Bridge(port.bridge, host=port.bridge.rpartition("/")[0]))
        network.see_port(Port(port))
    discovery = Discovery(SwitchDb("unix:/nowhere"), network, DiscoverySettings(Path("/nowhere")))
    start = discovery.now()
    settling = discovery._settling
    settling.set_up([near], start - 60_000)
    assert settling.is_settled(near, start)
    network.see_link(near, far, "wire", Origin.PROBE, start)
    network.lose_link(near, far, Origin.PROBE)
    assert not settling.is_settled(near, start + UNLINKED - 1000)
    assert settling.is_settled(near, start + UNLINKED + 1000)
    settling.set_up([], start + 4000)  # it was taken down, and is up again
    settling.set_up([near], start + 5000)
    assert not settling.is_settled(near, start + 5500) and settling.is_settled(near, start + 6500)


# --- LLDP


def test_a_probe_says_who_sent_it() -> None:
    assert decode(FRAME, KEY, NOW) == PROBE
    assert len(FRAME) >= 60 and FRAME[0] & 1  # a group address
    odd = Probe(2**64 - 1, "", "b" * 15, "p/ü:1", NOW, 2**32 - 1)
    assert decode(encode(odd, KEY, bytes(6), 70_000), KEY, NOW) == odd


@pytest.mark.parametrize(
    "wrong",
    [
        PROBE._replace(port=""),
        PROBE._replace(port="p" * 256),
        PROBE._replace(host="h" * 260),
        PROBE._replace(bridge="a/b"),
    ],
)
def test_names_that_do_not_fit(wrong: Probe) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode(wrong, KEY, bytes(6), 8)


def test_other_keys_times_and_frames_are_not_ours() -> None:
    for frame, key, now in (
        (FRAME, b"other", NOW),
        (FRAME, KEY, NOW + 60_000),
        (FRAME, KEY, NOW - 60_000),
        (FRAME[:40], KEY, NOW),
        (FRAME[:12] + b"\x08\x06" + FRAME[14:], KEY, NOW),
        (FRAME[:12] + b"\x88\xcc" + bytes(46), KEY, NOW),
        (b"", KEY, NOW),
    ):
        with pytest.raises(NotOurs):
            decode(frame, key, now)


@given(st.integers(14, len(FRAME.rstrip(b"\0")) - 1), st.integers(1, 255))
def test_a_frame_with_any_byte_changed_is_not_ours(place: int, change: int) -> None:
    changed = bytearray(FRAME)
    changed[place] ^= change
    with pytest.raises(NotOurs):
        decode(bytes(changed), KEY, NOW)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoders_fail(data: bytes) -> None:
    for frame in (data, FRAME[:14] + data, FRAME + data):
        try:
            decode(frame, KEY, NOW)
        except NotOurs:
            pass
    for ethertype in (b"\x08\x06", b"\x86\xdd", b"\x08\x00", b"\x81\x00"):
        read(data[:12].ljust(12, b"\0") + ethertype + data[12:])
    parse(data.decode("latin-1"))


# --- what probes make of links


def probing(*ports: str) -> tuple[Network, LinkProbes, dict[str, BridgeRow]]:
    made = Network()
    names = {PortId.parse(port).bridge for port in ports}
    for name in sorted(names):
        made.see_bridge(Bridge(name))
    for port in ports:
        made.see_port(Port(PortId.parse(port), 1))
    table = {name: row(name, datapath_id=number) for number, name in enumerate(sorted(names), 1)}
    return made, LinkProbes(made, "here", KEY, 8), table


def heard(
    probes: LinkProbes, rows_: Mapping[str, BridgeRow], sender: str, at: str, number: int, **fields: object
) -> None:
    port = PortId.parse(sender)
    identity = rows_[port.bridge].datapath_id if port.bridge in rows_ else 0x99
    probe = Probe(identity or 0, "here", port.bridge, port.port, now(), number)._replace(**fields)  # type: ignore[arg-type]
    probes.receive(PortId.parse(at), encode(probe, KEY, bytes(6), 8), rows_, 0)


def now() -> int:
    import time

    return time.time_ns() // 1_000_000


def test_a_link_that_was_made_through_a_bridge_that_had_just_come_is_corrected() -> None:
    made, probes, table = probing("a:1", "b:1", "b:2", "c:1")
    heard(probes, table, "a:1", "c:1", 1)  # b took nothing in yet
    assert set(made.links) == {link_key(PortId("a", "1"), PortId("c", "1"))}
    for number in (2, 3, 4):
        heard(probes, table, "a:1", "b:1", number)
        heard(probes, table, "b:2", "c:1", number)
    assert set(made.links) == {
        link_key(PortId("a", "1"), PortId("b", "1")),
        link_key(PortId("b", "2"), PortId("c", "1")),
    }


def test_a_shared_segment_keeps_all_its_links() -> None:
    made, probes, table = probing("a:1", "b:1", "c:1")
    for number in range(1, 9):
        for sender, at in (
            ("a:1", "b:1"),
            ("a:1", "c:1"),
            ("b:1", "a:1"),
            ("b:1", "c:1"),
            ("c:1", "a:1"),
            ("c:1", "b:1"),
        ):
            heard(probes, table, sender, at, number)
    assert len(made.links) == 3


def test_probes_of_others_make_their_bridges_and_nonsense_makes_nothing() -> None:
    made, probes, table = probing("a:1")
    heard(probes, table, "br0:eth0", "a:1", 1, host="there")
    assert set(made.links) == {link_key(PortId("a", "1"), PortId("there/br0", "eth0"))}
    assert made.bridges["there/br0"].host == "there" and made.bridges["there/br0"].origin is Origin.PROBE
    heard(probes, table, "a:1", "a:1", 2)  # its own echo
    heard(probes, table, "a:9", "a:1", 2)  # a port that we do not have
    heard(probes, table, "old:1", "a:1", 2, datapath_id=1)  # the bridge a by a name that it had
    heard(probes, table, "x:1", "a:1", 2, host="")
    probes.receive(PortId("a", "1"), b"\0" * 60, table, 0)
    assert len(made.links) == 1 and len(made.ports) == 2 and probes.foreign_probes == 1


# --- what hosts say


def said(packet: Packet) -> Sighting | None:
    return read(bytes(packet))


def ether(**fields: object) -> Packet:
    return Ether(**{"src": MAC, "dst": "ff:ff:ff:ff:ff:ff", **fields})


def test_arp() -> None:
    assert said(ether() / ARP(hwsrc=MAC, psrc="10.0.0.1", pdst="10.0.0.2")) == Sighting(MAC, ("10.0.0.1",))
    assert said(ether() / Dot1Q(vlan=5) / ARP(hwsrc=MAC, psrc="10.0.0.1")) == Sighting(MAC, ("10.0.0.1",))
    assert said(ether() / ARP(hwsrc=MAC, psrc="0.0.0.0", pdst="10.0.0.1")) == Sighting(MAC, ())  # RFC 5227: only asking
    assert said(ether() / ARP(hwsrc="02:00:00:00:00:09", psrc="10.0.0.1")) is None
    assert said(ether() / ARP(hwsrc=MAC, psrc="10.0.0.1", ptype=0x1234)) is None


def test_neighbour_discovery() -> None:
    def nd(message: Packet, source: str = "fe80::1", hops: int = 255) -> Sighting | None:
        return said(ether(dst="33:33:ff:00:00:01") / IPv6(src=source, dst="ff02::1:ff00:1", hlim=hops) / message)

    ask = ICMPv6ND_NS(tgt="fe80::2") / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
    assert nd(ask) == Sighting(MAC, ("fe80::1",))
    assert nd(ICMPv6ND_NS(tgt="2001:db8::7"), "::") == Sighting(MAC, ("2001:db8::7",))
    assert nd(ICMPv6ND_NA(tgt="2001:db8::7") / ICMPv6NDOptDstLLAddr(lladdr=MAC)) == Sighting(MAC, ("2001:db8::7",))
    assert nd(ask, hops=64) is None  # from beyond a router
    assert nd(ICMPv6ND_NS(tgt="fe80::2") / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:09")) is None
    assert nd(ICMPv6ND_NA(tgt="fe80::2") / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:09")) is None


def test_dhcp() -> None:
    def dhcp(kind: str, client: str = "0.0.0.0", hardware: str = MAC, **options: str) -> Sighting | None:
        bootp = BOOTP(chaddr=bytes.fromhex(hardware.replace(":", "")), ciaddr=client)
        words = [("message-type", kind), *options.items(), "end"]
        return said(
            ether() / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / bootp / DHCP(options=words)
        )

    assert dhcp("request", requested_addr="10.0.0.5") == Sighting(MAC, ("10.0.0.5",))
    assert dhcp("request", client="10.0.0.6") == Sighting(MAC, ("10.0.0.6",))
    assert dhcp("discover", requested_addr="10.0.0.5") == Sighting(MAC, ())
    assert dhcp("request", hardware="02:00:00:00:00:09", requested_addr="10.0.0.5") is None
    assert said(ether() / IP() / UDP(sport=68, dport=53) / Raw(bytes(300))) is None


def test_frames_that_are_cut_or_scrambled_say_nothing_wrong() -> None:
    chance = random.Random(5)
    whole = [
        bytes(ether() / ARP(hwsrc=MAC, psrc="10.0.0.1")),
        bytes(ether() / IPv6(src="fe80::1", hlim=255) / ICMPv6ND_NS(tgt="fe80::2") / ICMPv6NDOptSrcLLAddr(lladdr=MAC)),
    ]
    for frame in whole:
        for length in range(len(frame)):
            read(frame[:length])
        for _ in range(500):
            scrambled = bytearray(frame)
            for _ in range(3):
                scrambled[chance.randrange(12, len(frame))] = chance.randrange(256)
            seen = read(bytes(scrambled))
            for address in seen.addresses if seen else ():
                ipaddress.ip_address(address)


# --- learning tables


def test_the_learning_table() -> None:
    text = (
        " port  VLAN  MAC                Age\n    1     0  42:cb:87:56:2c:80    1\nLOCAL    20  "
        "00:00:00:00:00:02  299\n"
        "    7     0  00:00:00:00:00:03  static\n garbage\n   x  0  00:00:00:00:00:04  1\n"
    )
    assert parse(text) == [LearnedAddress(1, "42:cb:87:56:2c:80", 1), LearnedAddress(0xFFFE, "00:00:00:00:00:02", 299)]
    assert parse("") == []
    huge = "".join(f"    1     0  02:00:00:00:{n >> 8:02x}:{n & 255:02x}    1\n" for n in range(50_000))
    assert len(parse(huge)) == 50_000 and SLICE < 1000


# --- rows of the database


def interface(name: str, number: int | None = 1, **fields: object) -> InterfaceRow:
    given_ = {
        "type": "",
        "error": None,
        "link_speed": 10**9,
        "admin_up": True,
        "link_up": True,
        "ifindex": 5,
        "mac": MAC,
        "options": {},
        "external_ids": {},
        **fields,
    }
    return InterfaceRow(name=name, ofport=number, **given_)  # type: ignore[arg-type]


def row(name: str, *interfaces: InterfaceRow, datapath_id: int | None = 1, bond: bool = False) -> BridgeRow:
    ports = [("bond0", interfaces)] if bond else [(one.name, (one,)) for one in interfaces]
    table = {port: PortRow(port, members, None, {}) for port, members in ports}
    return BridgeRow(name, UUID(int=1), "netdev", datapath_id, frozenset(), None, table, {}, {})


def test_ports_with_and_without_speed() -> None:
    bridge = row(
        "br0",
        interface("a", 1),
        interface("b", 2, link_speed=None),
        interface("c", 3, link_speed=-4),
        interface("d", 4, link_up=False),
        interface("e", -1, error="no such device"),
        interface("f", None),
        interface("g", 7, type="system", link_up=None, admin_up=None),
        interface("h", 8, link_speed=0),
    )
    found = {local.port.id.port: local.port for local in ports_of(bridge, {"h": 5})}
    assert {name: (port.up, port.speed) for name, port in found.items()} == {
        "a": (True, 10**9),
        "b": (True, 0),
        "c": (True, 0),
        "d": (False, 0),
        "e": (False, 0),
        "f": (False, 0),
        "g": (True, 10**9),
        "h": (True, 5),
    }
    assert found["e"].number is None and found["g"].kind == ""
    [bond] = ports_of(row("br0", interface("x", 1), interface("y", 2, link_up=False), bond=True), {})
    assert bond.port.up and bond.port.speed == 10**9 and bond.numbers == (1, 2)
    assert bond.port.vlan and not found["a"].vlan


def test_links_by_patch_ports_peers_and_tunnels() -> None:
    def tunnel(name: str, here: str, there: str, key: str = "7") -> InterfaceRow:
        return interface(name, 9, type="vxlan", options={"local_ip": here, "remote_ip": there, "key": key})

    bridges = [
        row(
            "br0",
            interface("pa", type="patch", options={"peer": "pb"}),
            interface("v0"),
            tunnel("t0", "1.1.1.1", "2.2.2.2"),
            interface("half", type="patch", options={"peer": "pb"}),
            interface("self", type="patch", options={"peer": "self"}),
        ),
        row(
            "br1",
            interface("pb", type="patch", options={"peer": "pa"}),
            interface("v1"),
            tunnel("t1", "2.2.2.2", "1.1.1.1"),
            tunnel("t2", "2.2.2.2", "1.1.1.1", "8"),
            interface("gone", type="patch", options={"peer": "nobody"}),
        ),
    ]
    ports = [local for bridge in bridges for local in ports_of(bridge, {})]
    found = links_of(ports, {"v0": "v1", "v1": "v0", "eth9": "v0"})
    assert {(str(a), str(b)): medium for (a, b), medium in found.items()} == {
        ("br0:pa", "br1:pb"): "patch",
        ("br0:v0", "br1:v1"): "veth",
        ("br0:t0", "br1:t1"): "tunnel",
    }


# --- pictures and settings


def pictured() -> list[dict[str, object]]:
    made = Network()
    for name in ("s1", 's"2<', "far/br0"):
        made.see_bridge(Bridge(name, 1, "far" if "/" in name else ""))
        made.see_port(Port(PortId(name, "p&1"), 1, speed=0 if name == "s1" else 10**7))
        made.see_port(Port(PortId(name, "h"), 2, up=name == "s1"))
    made.see_link(PortId("s1", "p&1"), PortId('s"2<', "p&1"), "veth", Origin.LOCAL, 0)
    made.see_link(PortId("s1", "p&1"), PortId("far/br0", "p&1"), "wire", Origin.PROBE, 0)
    for number in range(40):
        made.see_host(f"02:00:00:00:00:{number:02x}", PortId("s1", "h"), 0, addresses=[f"10.0.0.{number + 1}"])
    made.see_host(MAC, PortId("s1", "h"), 1, addresses=["10.0.0.9"])
    made.configure_host("02:00:00:00:01:00", None, ["10.0.1.1"], 0)
    listed = list(list_network(made, 90_000))
    assert len(listed) == 3 + 6 + 2 + 41 + 1 and all("\n" not in one.line for one in listed)
    return [one.item for one in listed]  # type: ignore[misc]


def test_the_network_as_text() -> None:
    text = draw(pictured())
    assert "s1  datapath 0000000000000001" in text and "far/br0  datapath 0000000000000001  on far (local)" in text
    at = text.index("      1  p&1  up         -  link to far/br0:p&1 (wire, probe, 2min)")
    assert text[at + 1].strip() == 'link to s"2<:p&1 (veth, local, 2min)'
    assert "not attached:" in text and text[-1].startswith("! 10.0.0.9 is claimed by 02:00:00:00:00:01")
    assert draw([]) == ["no bridges"]


def test_the_network_as_pictures() -> None:
    items = pictured()
    graph = dot(items)
    assert graph.count("--") == 2 + 25 and '"s\\"2<" [shape=box' in graph and "17 more" not in graph.split("16 more")[0]
    picture = ElementTree.fromstring(svg(items))
    boxes = [node for node in picture.iter() if node.tag.endswith("rect")]
    assert len(boxes) == 3 + 25
    assert ElementTree.fromstring(svg([])) is not None and dot([]).startswith("graph")


def test_static_hosts_and_links(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def settings(text: str):  # type: ignore[no-untyped-def]
        file = tmp_path / "c.toml"
        file.write_text(text)
        return load(file, {})

    good = settings(
        '[topology]\nlldp = false\ninterval = 9\n[hosts]\n"02:00:00:00:00:0A" = { port = "br0:e", addresses = '
        '["10.0.0.1"] }\n'
        '"02:00:00:00:00:0b" = {}\n[links]\nx = ["br1:b", "br0:a"]\n'
    )
    assert good.hosts == (
        StaticHost("02:00:00:00:00:0a", PortId("br0", "e"), ("10.0.0.1",)),
        StaticHost("02:00:00:00:00:0b"),
    )
    assert good.links == (link_key(PortId("br0", "a"), PortId("br1", "b")),)
    assert not good.topology.lldp and good.topology.snoop and good.topology.interval == 9
    for text, complaint in (
        ('[hosts]\n"ff:ff:ff:ff:ff:ff" = {}', "MAC"),
        ('[hosts]\n"02:00:00:00:00:0a" = { where = "br0:e" }', "unknown setting hosts"),
        ('[hosts]\n"02:00:00:00:00:0a" = { port = "br0" }', "BRIDGE:PORT"),
        ('[hosts]\n"02:00:00:00:00:0a" = { addresses = ["224.0.0.1"] }', "address of a host"),
        ('[hosts]\n"02:00:00:00:00:0a" = 5', "must be a dict"),
        ('[links]\nx = ["br0:a"]', "two ports"),
        ('[links]\nx = ["br0:a", "br0:a"]', "two ports"),
        ('[links]\nx = ["br0:a", 7]', "must be a str"),
        ("[topology]\ninterval = 0", "interval"),
        ('[topology]\nname = "a/b"', "name"),
        ("[topology]\nsnop = true", "unknown setting topology.snop"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            settings(text)
