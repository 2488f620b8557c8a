"""The network model against plain descriptions of it: what listeners heard adds up to what is there, links and hosts
keep their rules after any sequence of facts, paths are all the simple paths by length, and nothing goes in circles
on the flood tree."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.network.flood import flood_tree
from ovspane.network.hosts import HostLimits
from ovspane.network.model import Bridge, Conflict, LinkKey, NetworkDelta, Origin, Port, PortId, Thing, link_key
from ovspane.network.paths import Graph
from ovspane.network.topology import Network

BRIDGES = ["s1", "s2", "s3", "s4"]
PORTS = [PortId(bridge, name) for bridge in BRIDGES for name in "abc"]
MACS = [f"02:00:00:00:00:0{number}" for number in range(1, 4)]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "fe80::1"]
LIMITS = HostLimits(host_age=50, link_age=20, conflict_age=30, damp=15, hosts=3, addresses=2, conflicts=4)

_port, _mac, _origin = st.sampled_from(PORTS), st.sampled_from(MACS), st.sampled_from(Origin)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 12),  # ms that pass
        st.one_of(
            st.tuples(st.just("bridge"), st.sampled_from(BRIDGES)),
            st.tuples(st.just("no bridge"), st.sampled_from(BRIDGES)),
            st.tuples(st.just("port"), _port, st.booleans(), st.integers(0, 3)),
            st.tuples(st.just("no port"), _port),
            st.tuples(st.just("link"), _port, _port, _origin),
            st.tuples(st.just("no link"), _port, _port, _origin),
            st.tuples(
                st.just("host"),
                _mac,
                _port,
                st.lists(st.sampled_from(ADDRESSES), max_size=2),
                _origin,
                st.integers(0, 20),
            ),
            st.tuples(
                st.just("configured"),
                _mac,
                st.one_of(st.none(), _port),
                st.lists(st.sampled_from(ADDRESSES), max_size=1),
            ),
            st.tuples(st.just("no host"), _mac),
            st.tuples(st.just("age")),
        ),
    ),
    max_size=60,
)


def step(made: Network, now: int, what: tuple) -> None:  # type: ignore[type-arg]
    match what:
        case ("bridge", name):
            made.see_bridge(Bridge(name))
        case ("no bridge", name):
            made.lose_bridge(name)
        case ("port", port, up, speed):
            if port.bridge in made.bridges:
                made.see_port(Port(port, 1, up, speed))
        case ("no port", port):
            made.lose_port(port)
        case ("link", a, b, origin) if a != b:
            made.see_link(a, b, "wire", origin, now)
        case ("no link", a, b, origin) if a != b:
            made.lose_link(a, b, origin)
        case ("host", mac, port, addresses, origin, late):
            made.see_host(mac, port, now, addresses=addresses, origin=origin, seen=now - late)
        case ("configured", mac, port, addresses):
            made.configure_host(mac, port, addresses, now)
        case ("no host", mac):
            made.lose_host(mac)
        case ("age",):
            made.age(now)


def everything(made: Network) -> dict[object, Thing]:
    things: list[Thing] = [
        *made.bridges.values(),
        *made.ports.values(),
        *made.links.values(),
        *made.hosts,
        *made.conflicts,
    ]
    return {thing.key: thing for thing in things}


def check(made: Network, now: int) -> None:
    for port in made.ports.values():
        assert port.id.bridge in made.bridges
    for link in made.links.values():
        ends = [made.ports[end] for end in link.ends]
        assert all(end.up for end in ends)
        assert link.speed == min([end.speed for end in ends if end.speed] or [0])
        assert all(link in made.links_at(end) and not made.is_edge(end) for end in link.ends)
    owners = Counter(address for host in made.hosts for address in host.addresses)
    assert all(count == 1 for count in owners.values())
    for host in made.hosts:
        if host.port is not None and host.origin is not Origin.CONFIGURED:
            assert made.ports[host.port].up and made.is_edge(host.port)
            assert host in made.hosts.at(host.port)
        for address in host.addresses:
            assert made.host(address) == host
    assert len(made.conflicts) <= LIMITS.conflicts
    for conflict in made.conflicts:
        assert isinstance(conflict, Conflict)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_what_was_told_adds_up_to_what_is_there(steps: list[tuple[int, tuple]]) -> None:  # type: ignore[type-arg]
    made = Network(LIMITS)
    told: dict[object, Thing] = {}

    def hear(deltas: tuple[NetworkDelta, ...]) -> None:
        for before, after in deltas:
            thing = after or before
            assert thing is not None
            assert told.pop(thing.key, None) == before != after
            if after is not None:
                told[after.key] = after

    made.listen(hear)
    now = 1000
    for passed, what in steps:
        now += passed
        step(made, now, what)
        check(made, now)
        assert told == everything(made)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_what_nobody_confirms_is_gone_in_the_end(steps: list[tuple[int, tuple]]) -> None:  # type: ignore[type-arg]
    made = Network(LIMITS)
    now = 1000
    for passed, what in steps:
        now += passed
        step(made, now, what)
    for _ in range(3):
        now += LIMITS.host_age + LIMITS.damp + 1
        made.age(now)
    assert all(host.origin is not Origin.OBSERVED or host.port is None for host in made.hosts)
    assert all(link.origin is not Origin.PROBE for link in made.links.values())
    assert made.conflicts == [] and not any(host.damped for host in made.hosts)


FACTS = st.lists(st.tuples(_port, _port, st.sampled_from([Origin.LOCAL, Origin.PROBE, Origin.CONFIGURED])), max_size=8)


@settings(max_examples=100, deadline=None)
@given(FACTS, st.randoms())
def test_links_do_not_depend_on_the_order_of_facts(facts: list[tuple[PortId, PortId, Origin]], chance) -> None:  # type: ignore[no-untyped-def]
    works = [("bridge", Bridge(name)) for name in BRIDGES] + [("port", Port(port, 1)) for port in PORTS]
    links = [("link", *fact) for fact in facts if fact[0] != fact[1]]
    results = []
    for _ in range(2):
        made = Network()
        chance.shuffle(links)
        early = chance.randrange(len(links) + 1)
        for _, a, b, origin in links[:early]:
            made.see_link(a, b, "wire", origin, 0)
        for kind, thing in works:
            (made.see_bridge if kind == "bridge" else made.see_port)(thing)  # type: ignore[operator]
        for _, a, b, origin in links[early:]:
            made.see_link(a, b, "wire", origin, 0)
        results.append((dict(made.links), made.flood_tree(), made.paths("s1", "s4", 5)))
    assert results[0] == results[1]


# --- paths and flooding; wires join ports of different bridges, each port at most one


@st.composite
def wires(draw: st.DrawFn) -> list[LinkKey]:
    ports = draw(st.permutations(PORTS))
    count = draw(st.integers(0, 6))
    pairs = [link_key(a, b) for a, b in zip(ports[0 : 2 * count : 2], ports[1 : 2 * count : 2], strict=True)]
    return [pair for pair in pairs if pair[0].bridge != pair[1].bridge]


def wired(links: list[LinkKey]) -> Network:
    made = Network()
    for name in BRIDGES:
        made.see_bridge(Bridge(name))
    for port in PORTS:
        made.see_port(Port(port, 1))
    for a, b in links:
        made.see_link(a, b, "wire", Origin.LOCAL, 0)
    return made


def simple_paths(links: list[LinkKey], start: str, end: str) -> set[tuple[LinkKey, ...]]:
    """By walking everywhere."""
    found = set()
    stack: list[tuple[str, tuple[str, ...], tuple[LinkKey, ...]]] = [(start, (start,), ())]
    while stack:
        here, been, way = stack.pop()
        if here == end:
            found.add(way)
            continue
        for key in links:
            ends = [port.bridge for port in key]
            if here in ends:
                there = ends[1] if ends[0] == here else ends[0]
                if there not in been:
                    stack.append((there, (*been, there), (*way, key)))
    return found


@settings(max_examples=200, deadline=None)
@given(wires(), st.sets(st.integers(0, 5)))
def test_paths_are_all_the_simple_ones_by_length(links: list[LinkKey], hidden: set[int]) -> None:
    avoid = [links[index] for index in hidden if index < len(links)]
    made = wired(links)
    for start, end in combinations(BRIDGES, 2):
        expected = simple_paths([key for key in links if key not in avoid], start, end)
        paths = made.paths(start, end, 1000, avoid)
        assert {path.links for path in paths} == expected and len(paths) == len(expected)
        ordered = [(len(path.hops), [hop.out for hop in path.hops]) for path in paths]
        assert ordered == sorted(ordered)
        assert [length for length, _ in ordered] == sorted(len(way) for way in expected)
        for most in range(len(paths)):
            assert made.paths(start, end, most, avoid) == paths[:most]
        for path in paths:
            at = start
            for out, into, link in path.hops:
                assert out.bridge == at and link_key(out, into) == link.ends
                at = into.bridge
            assert at == end


@settings(max_examples=200, deadline=None)
@given(wires(), st.integers(1, 6))
def test_paths_apart_are_the_same_ones_with_few_links_in_common(links: list[LinkKey], most: int) -> None:
    made = wired(links)
    graph = Graph(made.bridges, made.links.values())
    for start, end in combinations(BRIDGES, 2):
        paths, apart = made.paths(start, end, 1000), graph.diverse_paths(start, end, most)
        assert apart == Graph(sorted(made.bridges, reverse=True), reversed(made.links.values())).diverse_paths(
            start, end, most
        )
        assert len(apart) == min(most, len(paths)) and len({path.links for path in apart}) == len(apart)
        assert set(apart) <= set(paths)
        assert [len(path.hops) for path in apart] == [len(path.hops) for path in paths[:most]]
        for others in (set(apart[0].links), *({*apart[0].links, *apart[1].links} for _ in apart[1:2])) if apart else ():
            disjoint = [path for path in paths if len(path.hops) == len(paths[0].hops) and not others & set(path.links)]
            at = 1 if others == set(apart[0].links) else 2
            assert not disjoint or most == at or not others & set(apart[at].links)


@settings(max_examples=100, deadline=None)
@given(wires(), wires(), st.randoms())
def test_a_graph_whose_links_changed_is_as_a_new_one(before: list[LinkKey], after: list[LinkKey], chance) -> None:  # type: ignore[no-untyped-def]
    old, new = wired(before), wired(after)
    graph = Graph(old.bridges, old.links.values())
    changes = [*before, *after]
    chance.shuffle(changes)
    for ends in changes:
        graph.diverse_paths("s1", "s2", 2)
        graph.set_link(ends, new.links.get(ends))
    assert not any(graph.set_link(ends, new.links.get(ends)) for ends in changes)
    fresh = Graph(new.bridges, new.links.values())
    for start, end in combinations(BRIDGES, 2):
        assert graph.paths(start, end, 100) == fresh.paths(start, end, 100)
        assert graph.diverse_paths(start, end, 3) == fresh.diverse_paths(start, end, 3)


@settings(max_examples=300, deadline=None)
@given(wires(), st.sampled_from(BRIDGES))
def test_a_flooded_packet_reaches_everything_once(links: list[LinkKey], start: str) -> None:
    tree = flood_tree(BRIDGES, links)
    assert not tree.unsafe
    peers = {end: other for a, b in links for end, other in ((a, b), (b, a))}
    got = Counter({start: 1})
    flying = [(port, peers[port]) for port in peers if port.bridge == start and port not in tree.no_flood]
    for _ in range(1000):
        if not flying:
            break
        _, into = flying.pop()
        got[into.bridge] += 1  # a port that does not flood takes in what comes all the same
        flying += [
            (port, peers[port]) for port in peers if port.bridge == into.bridge and port not in {into, *tree.no_flood}
        ]
    assert not flying, "a packet goes in circles"
    assert set(got.values()) == {1}
    assert set(got) == {name for name in BRIDGES if name == start or simple_paths(links, start, name)}


@settings(max_examples=200, deadline=None)
@given(wires(), st.data())
def test_a_failure_changes_the_flood_tree_by_one_link_at_most(links: list[LinkKey], data: st.DataObject) -> None:
    if not links:
        return
    failed = data.draw(st.sampled_from(links))
    before = flood_tree(BRIDGES, links).no_flood
    after = flood_tree(BRIDGES, [key for key in links if key != failed]).no_flood
    assert after <= before and len(before - set(failed)) - len(after) in (0, 2)


@settings(max_examples=300, deadline=None)
@given(wires(), st.sets(st.sampled_from(PORTS)), st.sets(st.sampled_from(PORTS)), st.sampled_from(BRIDGES))
def test_nothing_goes_in_circles_around_what_others_keep_from_flooding(
    links: list[LinkKey], quiet: set[PortId], late: set[PortId], start: str
) -> None:
    """Ports of others that do not flood: what is flooded goes in no circle, comes to nobody twice, and where they
    leave a way it arrives."""
    tree = flood_tree(BRIDGES, links, quiet, late)
    assert not tree.no_flood & quiet and not tree.unsafe
    silent = tree.no_flood | quiet
    peers = {end: other for a, b in links for end, other in ((a, b), (b, a))}
    got = Counter({start: 1})
    flying = [peers[port] for port in peers if port.bridge == start and port not in silent]
    while flying:
        into = flying.pop()
        got[into.bridge] += 1
        assert got[into.bridge] == 1, f"{into.bridge} gets it again"
        flying += [peers[port] for port in peers if port.bridge == into.bridge and port not in {into, *silent}]
    whole = [key for key in links if not quiet.intersection(key)]
    assert set(got) >= {name for name in BRIDGES if name == start or simple_paths(whole, start, name)}


@settings(max_examples=200, deadline=None)
@given(wires(), st.data())
def test_a_link_that_comes_or_comes_back_changes_nothing(links: list[LinkKey], data: st.DataObject) -> None:
    """As the daemon asks: what is not in the tree is `late`."""
    if not links:
        return
    failed = data.draw(st.sampled_from(links))
    left = [key for key in links if key != failed]
    without = flood_tree(BRIDGES, left).no_flood
    again = flood_tree(BRIDGES, links, late={*without, *failed}).no_flood
    assert without <= again <= without | set(failed)


@settings(max_examples=200, deadline=None)
@given(wires(), st.randoms(use_true_random=False))
def test_links_that_are_found_one_after_the_other_make_the_tree_that_was(links: list[LinkKey], rng: Random) -> None:
    """As after a start of the daemon: what does not flood yet is `last`."""
    before = flood_tree(BRIDGES, links).no_flood
    found: list[LinkKey] = []
    tree: set[LinkKey] = set()
    for key in rng.sample(links, len(links)):
        found.append(key)
        late = {end for known in found if known not in tree for end in known}
        quiet = flood_tree(BRIDGES, found, late=late, last=before).no_flood
        tree = {known for known in found if not quiet.intersection(known)}
    if links:
        assert quiet == before
