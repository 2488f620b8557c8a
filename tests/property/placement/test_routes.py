"""Steering over redundant links: a reservation gets the first path with room, keeps it, and moves when it fails."""

from __future__ import annotations

from dataclasses import replace

from ovspane.lang.replies import Code
from ovspane.network.model import PortId
from ovspane.placement.link_capacity import LinkCapacity
from ovspane.placement.network_view import snapshot
from ovspane.placement.routing import Routing
from ovspane.policy.concurrency import merged
from ovspane.policy.model.table import Stage
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.shares import Request
from ovspane.policy.state.status import INSTALLED
from tests.property.placement.test_link_capacity import reserve
from tests.support.attachment import attachment
from tests.support.placing import MAC, M, mac
from tests.support.steering import Steered, ring


def test_the_next_path_when_the_first_is_full() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert (made.route(1), made.route(2)) == (["s1", "s2"], ["s1", "s4", "s3", "s2"])
    refused = made.say(reserve(1, 2, "12Mb", " to +60"))
    assert refused.reason_code == "no-link-room"
    assert "3Mb free" in refused.text
    assert made.say(reserve(1, 2, "3Mb")).code is Code.OK
    assert made.say(reserve(4, 3, "3Mb")).code is Code.OK
    assert made.link_capacity.find_unsatisfied(0) == {}


def test_offers_are_those_of_the_best_path() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb", " to +60")).code is Code.OK
    assert made.say(reserve(1, 4, "10Mb", " to +30")).code is Code.OK
    assert made.say("available(srcHost=10.0.0.1, dstHost=10.0.0.2) on rootShare to +10.").fields["rate"] == "5Mb"
    refused = made.say(reserve(1, 2, "12Mb", " to +10"))
    assert "5Mb free" in refused.text and "fits from +30" in refused.text, refused.text
    granted = made.say("reserve(srcHost=10.0.0.1, dstHost=10.0.0.2) = 12Mb partial on rootShare to +10.")
    assert granted.fields["granted"] == "5Mb"
    assert made.route(3) == ["s1", "s4", "s3", "s2"]


def test_a_failure_moves_it_and_it_stays_there() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    made.settle()
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1", "s2", "there"]
    made.fail("s1", "s2")
    made.settle()
    assert made.link_capacity.find_unsatisfied(0) == {}
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1", "s4", "s3", "s2", "there"]
    assert made.load(PortId("s1", "to-s2"), 0) == 0
    assert made.link_capacity.take_rerouted() == {1: "s1:to-s4,s4:to-s3,s3:to-s2,s2:h2"}
    made.restore("s1", "s2")
    made.settle()
    assert made.route(1) == ["s1", "s4", "s3", "s2"]
    assert made.link_capacity.take_rerouted() == {}
    made.paper.network.lose_bridge("s3")
    made.settle()
    assert made.route(1) == ["s1", "s2"], "a bridge that is gone"


def test_who_finds_no_room_takes_nothing_from_the_others_and_comes_back() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.say(reserve(4, 3, "12Mb")).code is Code.OK
    made.fail("s1", "s2")
    made.settle()
    lost = "no path to its destination has room for it: 12Mb does not fit link s4:to-s3 to s3:to-s4"
    assert made.link_capacity.find_unsatisfied(0) == {1: lost}
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1"], "no queue, NORMAL decides"
    assert made.placement.ports("s1", made.runtime.state.requests[1].slot) == frozenset()
    assert made.walk(made.runtime.state.requests[2], 4, 3) == ["s4", "s3", "there"]
    assert made.say(reserve(3, 2, "12Mb")).code is Code.OK
    made.restore("s1", "s2")
    made.settle()
    assert made.link_capacity.find_unsatisfied(0) == {}
    assert made.route(1) == ["s1", "s2"]
    made.fail("s1", "s2")
    assert made.link_capacity.find_unsatisfied(0).keys() == {1}
    made.say("Cancel 2.")
    assert made.link_capacity.find_unsatisfied(0).keys() == {1}, "3 is still in its way"
    made.say("Cancel 3.")
    assert made.link_capacity.find_unsatisfied(0) == {}
    assert made.route(1) == ["s1", "s4", "s3", "s2"]


def test_a_host_that_moves_to_where_is_no_room_takes_none_from_others() -> None:
    paper = ring()
    paper.host(5, "s2", speed=1000 * M)
    made = Steered(paper)
    for source, sink in ((1, 2), (4, 3), (5, 3)):
        assert made.say(reserve(source, sink, "12Mb")).code is Code.OK
    paper.host(2, "s3", speed=1000 * M)
    made.settle()
    assert made.link_capacity.find_unsatisfied(0).keys() == {1}
    booked = (made.link_capacity._ledgers.requests_on(port) for port in paper.network.ports)
    assert not any(1 in numbers for numbers in booked), "it has no path, so it takes no room"
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1"]
    assert made.say(reserve(1, 5, "12Mb")).code is Code.OK
    made.say("Cancel 2.")
    made.settle()
    assert made.link_capacity.find_unsatisfied(0) == {}
    assert made.walk(made.runtime.state.requests[1], 1, 2) == ["s1", "s4", "s3", "there"]


def test_all_links_down_and_the_port_down() -> None:
    made = Steered(ring(3))
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    made.fail("s1", "s2")
    made.fail("s1", "s3")
    assert made.link_capacity.find_unsatisfied(0) == {1: "no known link leads from its source to its destination"}
    made.restore("s1", "s3")
    assert made.link_capacity.find_unsatisfied(0) == {}
    network = made.paper.network
    port = network.ports[PortId("s2", "h2")]
    network.see_port(replace(port, up=False))
    assert made.link_capacity.find_unsatisfied(0) == {1: "port s2:h2 is down"}
    network.see_port(port)
    assert made.link_capacity.find_unsatisfied(0) == {}


def test_it_survives_a_restart() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    made.say("Cancel 1.")
    values = list(made.runtime.state.values())
    link_capacity = LinkCapacity(Routing(most=4))
    again = Runtime(values, capacity=link_capacity)
    path = [PortId("s1", "to-s4"), PortId("s4", "to-s3"), PortId("s3", "to-s2"), PortId("s2", "h2")]
    assert [[port for port, _ in route] for route in link_capacity.bookings[2].routes.values()] == [path]
    paper = made.paper
    ports = [delta for delta in snapshot(paper.network) if type(delta.thing).__name__ in ("Bridge", "Port")]
    link_capacity.notify(ports)  # links and hosts are learned later
    assert link_capacity.find_unsatisfied(0) == {}
    (routes,) = link_capacity.take_steering().values()
    (route,) = routes.values()
    assert [port for port, _ in route] == path
    assert all(number == paper.network.ports[port].number for port, number in route)
    link_capacity.notify([delta for delta in snapshot(paper.network) if delta not in ports])
    assert link_capacity.find_unsatisfied(0) == {} and link_capacity.take_steering() == {}
    link_capacity.mark_network_complete()
    assert link_capacity.find_unsatisfied(0) == {} and link_capacity.take_steering() == {}
    assert again.state.requests[2].via == made.runtime.state.requests[2].via
    late = LinkCapacity(Routing(most=4))
    Runtime(values, capacity=late)
    late.notify(ports)
    late.mark_network_complete()
    assert late.find_unsatisfied(0) == {2: "no known link leads from its source to its destination"}


def test_where_it_was_moved_to_is_written_down() -> None:
    """Else a restart would put it back on its old path, which somebody else may have got since."""
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.runtime.strayed(9) == []
    made.fail("s1", "s2")
    made.settle()
    changes = made.runtime.strayed(9)
    assert [change.value.id for change in changes if isinstance(change.value, Request)] == [1]
    made.runtime.state.status[1] = INSTALLED
    made.runtime.apply(changes)
    assert made.runtime.strayed(9) == [] and made.link_capacity.take_steering() == {}
    assert made.runtime.state.status[1] == INSTALLED
    assert not made.runtime.settle(0).notices
    made.restore("s1", "s2")
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    link_capacity = LinkCapacity(Routing(most=4))
    again = Runtime(made.runtime.state.values(), capacity=link_capacity)
    link_capacity.notify(snapshot(made.paper.network))
    link_capacity.mark_network_complete()
    assert link_capacity.find_unsatisfied(0) == {} and again.strayed(9) == []
    assert [
        [port.bridge for port, _ in route] for one in (1, 2) for route in link_capacity.bookings[one].routes.values()
    ] == [
        ["s1", "s4", "s3", "s2"],
        ["s1", "s2"],
    ]
    # another daemon's word, as it comes from a shared database
    told = replace(made.runtime.state.requests[1], via=made.runtime.state.requests[2].via)
    changes = merged(again.state, [told], []) or []
    assert [change.value for change in changes] == [told]
    again.apply(changes)
    assert again.strayed(9) == []
    assert [port.bridge for port, _ in next(iter(link_capacity.bookings[1].routes.values()))] == ["s1", "s2"]
    assert merged(again.state, [replace(told, rate=1)], []) is None


def test_without_steering_nothing_is_steered() -> None:
    made = Steered(ring())
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    link_capacity = LinkCapacity(Routing())
    again = Runtime(made.runtime.state.values(), capacity=link_capacity)
    assert link_capacity.take_steering() == {}
    link_capacity.notify(snapshot(made.paper.network))
    assert link_capacity.find_unsatisfied(0) == {} and link_capacity.take_steering() == {}
    assert [getattr(change.value, "via", None) for change in again.strayed(9)] == [""]


def test_what_somebody_wrote_into_the_database_by_hand() -> None:
    for via in ("nonsense", "[[1]]", "7", '[[["s1"]]]', "[[]]", '[[["s9","x"],["s2","h2"]]]'):
        made = Steered(ring())
        assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
        made.link_capacity.put(replace(made.runtime.state.requests[1], via=via), {})
        assert made.link_capacity.find_unsatisfied(0) == {} and made.route(1) == ["s1", "s2"]


def test_who_is_not_seen_any_more_stays_where_he_was() -> None:
    made = Steered(ring())
    network = made.paper.network
    network.see_host(mac(9), PortId("s2", "h2"), 0, addresses=["10.0.0.9"])
    assert made.say(reserve(1, 9, "12Mb")).code is Code.OK
    assert made.say(reserve(1, 9, "12Mb")).code is Code.OK
    made.settle()
    network.age(10**9)
    assert attachment(network, "10.0.0.9") is None
    made.settle()
    assert (made.route(1), made.route(2)) == (["s1", "s2"], ["s1", "s4", "s3", "s2"])
    assert {rule.output for rule in made.placement.rules("s1")} == {1}, (
        "the last one's rule has the key, by the way to s2 or to s4"
    )
    assert not made.link_capacity.find_unsatisfied(0)
    network.see_host(mac(9), PortId("s4", "h4"), 10**9, addresses=["10.0.0.9"])
    made.settle()
    assert sorted((made.route(1), made.route(2))) == [["s1", "s2", "s3", "s4"], ["s1", "s4"]]


def test_only_packets_to_the_destination_itself_are_steered() -> None:
    """Not those that a router has to get first; and they follow the address to another card."""
    made = Steered(ring())
    network = made.paper.network
    network.see_host(mac(9), PortId("s2", "h2"), 0, addresses=["10.0.0.9"])
    assert made.say(reserve(1, 9, "12Mb")).code is Code.OK
    made.settle()

    def steered() -> list[tuple[int, int]]:
        rules = [rule for rule in made.placement.rules("s1") if rule.stage is Stage.QUEUE]
        return [(rule.match.field("eth_dst")[0], rule.output) for rule in rules]

    ((to, out),) = steered()
    assert (to, bool(out)) == (MAC + 9, True)
    assert made.placement.ports("s1", made.runtime.state.requests[1].slot) == {"to-s2"}
    network.age(10**9)
    assert steered() == [(MAC + 9, out)], "who is not seen any more has no other card"
    network.see_host(mac(8), PortId("s2", "h2"), 10**9, addresses=["10.0.0.9"])
    made.settle()
    assert steered() == [(MAC + 8, out)]


def test_bridges_and_ports_that_cannot_be_steered_through() -> None:
    paper = ring()
    made = Steered(paper)
    bridge = paper.network.bridges["s4"]
    paper.network.see_bridge(replace(bridge, stp=True))
    assert made.say(reserve(1, 3, "12Mb")).code is Code.OK
    assert made.route(1) == ["s1", "s2", "s3"]
    assert made.say(reserve(1, 3, "12Mb")).reason_code == "no-link-room"
    assert made.say(reserve(4, 3, "1Mb")).code is Code.OK
    assert not made.link_capacity.bookings[2].routes, "it goes as its bridge will"
    paper.network.see_bridge(bridge)
    assert made.say(reserve(1, 3, "12Mb")).code is Code.OK
    port = paper.network.ports[PortId("s4", "to-s3")]
    paper.network.see_port(replace(port, vlan=True))
    assert made.link_capacity.find_unsatisfied(0).keys() == {3}


def test_several_destinations_each_by_its_own_path() -> None:
    made = Steered(ring())
    group = "srcHost=10.0.0.1, dstHost={10.0.0.2,10.0.0.4}"
    assert made.say(reserve(1, 2, "12Mb")).code is Code.OK
    assert made.say(f"reserve({group}) = 16Mb on rootShare.").reason_code == "no-link-room"
    assert made.say(f"reserve({group}) = 12Mb on rootShare.").code is Code.OK, "12 Mb in all, so once on s1:to-s4"
    routes = made.link_capacity.bookings[2].routes
    assert {pair[1].port: [port.bridge for port, _ in route] for pair, route in routes.items()} == {
        "h2": ["s1", "s4", "s3", "s2"],
        "h4": ["s1", "s4"],
    }
    assert made.load(PortId("s1", "to-s4"), 0) == 12 * M
    made.settle()
    assert made.walk(made.runtime.state.requests[2], 1, 4) == ["s1", "s4", "there"]
