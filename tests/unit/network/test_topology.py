"""The network model: what is there by whose word, where hosts are, who claims what is another's, and what listeners
are told."""

from __future__ import annotations

import pytest

from ovspane.network.addresses import usable_address, usable_mac
from ovspane.network.flood import flood_tree
from ovspane.network.hosts import HostLimits
from ovspane.network.model import Bridge, Conflict, Host, Link, NetworkDelta, Origin, Port, PortId, link_key
from ovspane.network.topology import Network
from tests.support.attachment import attachment

M1, M2 = "00:00:00:00:00:01", "00:00:00:00:00:02"
LIMITS = HostLimits()


def port(text: str) -> PortId:
    return PortId.parse(text)


def network(*ports: str, **limits: int) -> Network:
    """Bridges with these ports, all up, numbered."""
    made = Network(HostLimits(**limits))
    for number, text in enumerate(ports, 1):
        identity = port(text)
        if identity.bridge not in made.bridges:
            made.see_bridge(Bridge(identity.bridge))
        made.see_port(Port(identity, number, speed=1_000_000))
    return made


def link(made: Network, a: str, b: str, origin: Origin = Origin.LOCAL, now: int = 0, medium: str = "veth") -> None:
    made.see_link(port(a), port(b), medium, origin, now)


def ring(count: int) -> Network:
    made = network(*(f"s{number}:{side}" for number in range(count) for side in ("left", "right", "host")))
    for number in range(count):
        link(made, f"s{number}:right", f"s{(number + 1) % count}:left")
    return made


class Heard:
    """What a listener was told."""

    def __init__(self, made: Network) -> None:
        self.calls: list[tuple[NetworkDelta, ...]] = []
        made.listen(self.calls.append)

    @property
    def deltas(self) -> list[NetworkDelta]:
        return [delta for call in self.calls for delta in call]

    def of(self, kind: type) -> list[NetworkDelta]:
        return [delta for delta in self.deltas if isinstance(delta.thing, kind)]


def test_a_link_is_there_while_its_ports_are_up() -> None:
    made = network("s1:a", "s2:b")
    link(made, "s1:a", "s2:b")
    [only] = made.links.values()
    assert only == Link(link_key(port("s1:a"), port("s2:b")), "veth", 1_000_000, Origin.LOCAL, 0)
    assert only.other(port("s1:a")) == port("s2:b") and not made.is_edge(port("s1:a"))
    made.see_port(Port(port("s2:b"), 2, up=False))
    assert not made.links and made.is_edge(port("s1:a"))
    made.see_port(Port(port("s2:b"), 2))
    assert made.links  # whoever knows it for sure need not say it again
    made.lose_port(port("s2:b"))
    assert not made.links
    made.see_port(Port(port("s2:b"), 7))
    assert not made.links  # another port of the same name is not that one


def test_a_link_may_be_claimed_before_its_ports_are_there() -> None:
    made = Network()
    made.see_link(port("s1:a"), port("s2:b"), "wire", Origin.CONFIGURED, 0)
    for name in ("s1:a", "s2:b"):
        assert not made.links
        made.see_bridge(Bridge(port(name).bridge))
        made.see_port(Port(port(name)))
    assert [one.origin for one in made.links.values()] == [Origin.CONFIGURED]
    made.lose_bridge("s1")
    assert not made.links and [name for name, _ in made.ports] == ["s2"]
    made.see_bridge(Bridge("s1"))
    made.see_port(Port(port("s1:a")))
    assert made.links  # the configuration goes on saying so


def test_the_highest_claim_counts_and_probed_links_age() -> None:
    made = network("s1:a", "s2:b")
    link(made, "s1:a", "s2:b", Origin.PROBE, 1000, "wire")
    assert [(one.origin, one.medium) for one in made.links.values()] == [(Origin.PROBE, "wire")]
    link(made, "s2:b", "s1:a", Origin.LOCAL, 2000)
    assert [(one.origin, one.medium) for one in made.links.values()] == [(Origin.LOCAL, "veth")]
    made.age(1000 + LIMITS.link_age + 1)
    assert [one.origin for one in made.links.values()] == [Origin.LOCAL]
    link(made, "s1:a", "s2:b", Origin.PROBE, 50_000)
    made.lose_link(port("s1:a"), port("s2:b"), Origin.LOCAL)
    assert [one.origin for one in made.links.values()] == [Origin.PROBE]
    made.age(50_000 + LIMITS.link_age)
    assert made.links
    made.age(50_001 + LIMITS.link_age)
    assert not made.links


def test_a_probed_link_has_to_be_probed_again_after_a_port_was_down() -> None:
    made = network("s1:a", "s2:b")
    link(made, "s1:a", "s2:b", Origin.PROBE)
    made.see_port(Port(port("s2:b"), 2, up=False))
    made.see_port(Port(port("s2:b"), 2))
    assert not made.links  # the cable may lead elsewhere now
    link(made, "s1:a", "s2:b", Origin.PROBE, 5)
    assert made.links


def test_a_link_of_unknown_speed_has_that_of_its_other_end() -> None:
    made = network("s1:a", "s2:b")
    made.see_port(Port(port("s1:a"), 1, speed=0))
    link(made, "s1:a", "s2:b")
    assert [one.speed for one in made.links.values()] == [1_000_000]
    made.see_port(Port(port("s2:b"), 2, speed=0))
    assert [one.speed for one in made.links.values()] == [0]
    made.see_port(Port(port("s2:b"), 2, speed=5))
    assert [one.speed for one in made.links.values()] == [5]


def test_a_port_is_no_link_to_itself_and_needs_its_bridge() -> None:
    made = network("s1:a")
    with pytest.raises(ValueError, match="no link to itself"):
        link(made, "s1:a", "s1:a")
    with pytest.raises(KeyError):
        made.see_port(Port(port("s9:a")))
    for text in ("s1", ":a", "s1:", ""):
        with pytest.raises(ValueError, match="BRIDGE:PORT"):
            PortId.parse(text)


def test_bridges_of_others_go_with_their_last_link() -> None:
    made = network("s1:a")
    made.see_bridge(Bridge("far/br0", 7, "far", Origin.PROBE))
    made.see_port(Port(port("far/br0:x"), origin=Origin.PROBE))
    link(made, "s1:a", "far/br0:x", Origin.PROBE, 0, "wire")
    made.age(LIMITS.link_age)
    assert "far/br0" in made.bridges
    made.age(LIMITS.link_age + 1)
    assert list(made.bridges) == ["s1"] and list(made.ports) == [port("s1:a")]


def test_one_change_is_one_call_and_tells_what_was_and_is() -> None:
    made = network("s1:a", "s1:h")
    heard = Heard(made)
    with made.change():
        made.see_bridge(Bridge("s2"))
        made.see_port(Port(port("s2:b"), 1))
        made.see_port(Port(port("s2:b"), 2))
        made.see_port(Port(port("s2:c"), 3))
        made.lose_port(port("s2:c"))
        link(made, "s1:a", "s2:b")
    [call] = heard.calls
    assert set(call) == {
        NetworkDelta(None, Bridge("s2")),
        NetworkDelta(None, Port(port("s2:b"), 2)),
        NetworkDelta(None, Link(link_key(port("s1:a"), port("s2:b")), "veth", 1_000_000, Origin.LOCAL, 0)),
    }
    made.see_bridge(Bridge("s2"))
    made.see_port(Port(port("s2:b"), 2))
    link(made, "s1:a", "s2:b", now=99)
    assert len(heard.calls) == 1  # seen again is no change


# --- hosts


def test_a_host_is_attached_moves_and_ages() -> None:
    made = network("s1:p", "s2:p")
    heard = Heard(made)
    made.see_host(M1, port("s1:p"), 1000, addresses=["10.0.0.1", "2001:DB8::1"])
    assert made.host(M1.upper()) == Host(M1, port("s1:p"), ("10.0.0.1", "2001:db8::1"), Origin.OBSERVED, 1000)
    assert attachment(made, "10.0.0.1") == attachment(made, "2001:db8::1") == attachment(made, M1) == port("s1:p")
    made.see_host(M1, port("s1:p"), 5000)
    assert len(heard.calls) == 1 and made.hosts.last_seen(M1) == 5000
    made.see_host(M1, port("s2:p"), 9000, seen=4000)  # a learning table that still remembers
    assert attachment(made, "10.0.0.1") == port("s1:p")
    made.see_host(M1, port("s2:p"), 9000)
    assert attachment(made, "10.0.0.1") == port("s2:p")
    [came, moved] = heard.of(Host)
    assert came.before is None and isinstance(moved.before, Host) and moved.before.port == port("s1:p")
    made.age(1000 + LIMITS.host_age + 1)  # the addresses were claimed at 1000 only
    assert made.host(M1) == Host(M1, port("s2:p"), (), Origin.OBSERVED, 9000)
    made.age(9000 + LIMITS.host_age)
    assert made.host(M1)
    made.age(9000 + LIMITS.host_age + 1)
    assert made.host(M1) is None and heard.deltas[-1].after is None


def test_hosts_are_at_edges_only() -> None:
    made = network("s1:a", "s1:p", "s2:b")
    made.see_host(M1, port("s1:a"), 0)
    link(made, "s1:a", "s2:b")
    assert made.host(M1) is None
    made.see_host(M1, port("s2:b"), 1)
    made.see_host(M1, port("s9:x"), 1)
    made.see_port(Port(port("s1:p"), 2, up=False))
    made.see_host(M1, port("s1:p"), 1)
    assert made.host(M1) is None
    made.see_port(Port(port("s1:p"), 2))
    made.see_host(M1, port("s1:p"), 1)
    assert attachment(made, M1) == port("s1:p")
    made.see_port(Port(port("s1:p"), 2, up=False))
    assert made.host(M1) is None


def test_a_host_that_moves_every_second_is_held() -> None:
    made = network("s1:p", "s2:p")
    heard = Heard(made)
    for second in range(30):
        made.see_host(M1, port(f"s{1 + second % 2}:p"), 1000 * second)
    assert len(heard.of(Host)) == 4  # it came, moved twice, is held
    held = made.host(M1)
    assert held is not None and held.damped and held.port == port("s1:p")
    [conflict] = made.conflicts
    assert str(conflict) == f"{M1} is seen at s2:p too, but is held at s1:p"
    for second in range(30, 60):  # it has settled
        made.see_host(M1, port("s2:p"), 1000 * second)
    assert made.host(M1) == Host(M1, port("s2:p"), (), Origin.OBSERVED, 47_000)
    made.age(120_000)
    assert made.conflicts == []
    assert heard.of(Conflict)[-1] == NetworkDelta(conflict, None), "who listens is told that it is over"


def test_held_is_over_when_nobody_claims_it_any_more() -> None:
    made = network("s1:p", "s2:p")
    for second in range(6):
        made.see_host(M1, port(f"s{1 + second % 2}:p"), 1000 * second)
    assert made.host(M1).damped  # type: ignore[union-attr]
    made.age(5000 + LIMITS.damp)
    assert not made.host(M1).damped  # type: ignore[union-attr]


def test_two_hosts_with_one_address() -> None:
    made = network("s1:p", "s2:p")
    heard = Heard(made)
    made.see_host(M1, port("s1:p"), 0, addresses=["10.0.0.1"])
    for now in (1000, 2000, 3000):
        made.see_host(M2, port("s2:p"), now, addresses=["10.0.0.1"])
    assert attachment(made, "10.0.0.1") == port("s1:p")
    assert made.host(M2) == Host(M2, port("s2:p"), (), Origin.OBSERVED, 1000)
    assert made.conflicts == [Conflict("10.0.0.1", M1, port("s1:p"), M2, port("s2:p"), 1000)]
    assert len(heard.of(Conflict)) == 1
    assert str(made.conflicts[0]) == f"10.0.0.1 is claimed by {M2} at s2:p, but is held by {M1} at s1:p"
    made.see_host(M1, port("s1:p"), LIMITS.host_age)  # alive, but does not say the address any more
    made.age(LIMITS.host_age + 1)
    made.see_host(M2, port("s2:p"), LIMITS.host_age + 2, addresses=["10.0.0.1"])
    assert attachment(made, "10.0.0.1") == port("s2:p") and made.conflicts == []


def test_what_is_configured_wins() -> None:
    made = network("s1:p", "s2:p")
    made.see_host(M2, port("s2:p"), 0, addresses=["10.0.0.1"])
    made.configure_host(M1, port("s1:p"), ["10.0.0.1"], 0)
    assert attachment(made, "10.0.0.1") == port("s1:p") and made.host(M2).addresses == ()  # type: ignore[union-attr]
    made.see_host(M2, port("s2:p"), 1, addresses=["10.0.0.1"])
    made.see_host(M1, port("s2:p"), 1)
    assert attachment(made, M1) == attachment(made, "10.0.0.1") == port("s1:p")
    assert {conflict.subject for conflict in made.conflicts} == {"10.0.0.1", M1}
    made.age(10 * LIMITS.host_age)
    assert made.host("10.0.0.1") == Host(M1, port("s1:p"), ("10.0.0.1",), Origin.CONFIGURED, 0)
    made.see_port(Port(port("s1:p"), 1, up=False))
    assert attachment(made, M1) is None and made.host(M1) is not None


def test_a_configured_host_without_a_port_is_where_it_is_seen() -> None:
    made = network("s1:p", "s2:p")
    made.configure_host(M1, None, ["10.0.0.1"], 0)
    assert attachment(made, "10.0.0.1") is None
    made.see_host(M1, port("s1:p"), 1)
    made.see_host(M1, port("s2:p"), 2)
    assert attachment(made, "10.0.0.1") == port("s2:p")
    made.age(3 + LIMITS.host_age)
    assert made.host(M1) == Host(M1, None, ("10.0.0.1",), Origin.OBSERVED, 2)
    for wrong in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "nonsense", ""):
        with pytest.raises(ValueError, match="MAC"):
            made.configure_host(wrong, None, [], 0)
    with pytest.raises(ValueError, match=r"224\.0\.0\.1"):
        made.configure_host(M2, None, ["224.0.0.1"], 0)


def test_liars_find_bounds() -> None:
    made = network("s1:p", "s2:p", hosts=10, addresses=3, conflicts=2)
    for number in range(50):
        made.see_host(f"02:00:00:00:00:{number:02x}", port("s1:p"), number)
    assert len(made.hosts) == 10
    made.see_host("02:00:00:00:00:00", port("s1:p"), 60, addresses=[f"10.0.0.{number}" for number in range(1, 100)])
    assert made.host("02:00:00:00:00:00").addresses == ("10.0.0.1", "10.0.0.2", "10.0.0.3")  # type: ignore[union-attr]
    made.see_host("02:00:00:00:00:01", port("s1:p"), 61, addresses=[f"10.0.0.{number}" for number in range(1, 100)])
    assert len(made.conflicts) == 2


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("10.0.0.1", True),
        ("::1", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("ff02::1", False),
        ("fe80::1", True),
        ("::", False),
        ("10.0.0.256", False),
        ("127.0.0.1", False),
        ("", False),
    ],
)
def test_addresses_that_hosts_have(text: str, usable: bool) -> None:
    assert (usable_address(text) == text) is usable


def test_macs_that_hosts_have() -> None:
    assert usable_mac("0A:bc:00:00:00:01") == "0a:bc:00:00:00:01"
    for text in (
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "33:33:00:00:00:01",
        "1:2:3:4:5:6",
        "0a:bc",
        "0a:bc:00:00:00:0g",
    ):
        assert usable_mac(text) is None


# --- paths and the flood tree


def test_paths_around_a_ring() -> None:
    made = ring(4)
    short, long = made.paths("s0", "s1", 5)
    assert [str(hop.out) for hop in short.hops] == ["s0:right"]
    assert [str(hop.out) for hop in long.hops] == ["s0:left", "s3:left", "s2:left"]
    assert short.speed == 1_000_000
    assert [str(hop.out) for hop in made.paths("s0", "s2", 1)[0].hops] == ["s0:left", "s3:left"]
    assert made.paths("s0", "s1", 1, avoid=short.links) == [long]
    assert made.paths("s0", "s1", 1, avoid=[*short.links, long.links[1]]) == []
    assert made.paths("s0", "s0", 3)[0].hops == () and made.paths("s0", "s9", 3) == []
    made.see_port(Port(port("s0:right"), 2, up=False))
    assert made.paths("s0", "s1", 1) == [long]


def test_parallel_links_are_different_paths() -> None:
    made = network("s1:a", "s1:b", "s2:a", "s2:b")
    link(made, "s1:a", "s2:a")
    link(made, "s1:b", "s2:b")
    first, second = made.paths("s1", "s2", 9)
    assert (str(first.hops[0].out), str(second.hops[0].out)) == ("s1:a", "s1:b")
    assert made.paths("s1", "s2", 1, avoid=first.links) == [second]


def test_the_flood_tree_of_a_ring_leaves_one_link_out_and_takes_it_in_when_another_fails() -> None:
    made = ring(4)
    tree = made.flood_tree()
    assert len(tree.no_flood) == 2 and not tree.unsafe
    [out] = [key for key in made.links if set(key) == tree.no_flood]
    failing = next(key for key in made.links if key != out)
    made.see_port(Port(failing[0], 1, up=False))
    assert made.flood_tree().no_flood == frozenset()


def test_a_shared_segment_is_one_and_two_of_them_are_unsafe() -> None:
    a, b, c = port("s1:a"), port("s2:a"), port("s3:a")
    segment = [(a, b), (b, c), (a, c)]
    assert flood_tree(["s1", "s2", "s3"], segment).no_flood == frozenset()
    wire = (port("s1:z"), port("s2:z"))
    assert flood_tree(["s1", "s2", "s3"], [*segment, wire]).no_flood == set(wire)
    second = [(PortId(x.bridge, "b"), PortId(y.bridge, "b")) for x, y in segment]
    assert flood_tree(["s1", "s2", "s3"], segment + second).unsafe
    loop = (port("s1:x"), port("s1:y"))
    assert flood_tree(["s1"], [loop]).no_flood == set(loop)
