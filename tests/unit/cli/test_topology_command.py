"""The network as text and as pictures."""

from __future__ import annotations

from xml.etree import ElementTree

from ovspane.cli.topology_command import draw
from ovspane.cli.topology_picture import dot, svg
from ovspane.network.listing import list_network
from ovspane.network.model import Bridge, Origin, Port, PortId
from ovspane.network.topology import Network

MAC = "02:00:00:00:00:01"


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
