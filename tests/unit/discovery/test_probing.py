"""What probes that are heard make of links."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ovspane.discovery.lldp import Probe, encode
from ovspane.discovery.probing import LinkProbes
from ovspane.network.model import Bridge, Origin, Port, PortId, link_key
from ovspane.network.topology import Network
from ovspane.ovsdb.switch_db import BridgeRow
from tests.support.bridge_rows import row

KEY = b"key"


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
