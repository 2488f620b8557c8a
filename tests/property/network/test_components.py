"""Which bridges links join, after links came and went, is what networkx says of all links; a change that joins and
parts nothing is known to be none."""

from __future__ import annotations

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.network.components import Components
from ovspane.network.model import LinkKey, PortId, link_key

BRIDGES = [f"s{number}" for number in range(6)]
PAIRS = [(one, other) for one in BRIDGES for other in BRIDGES if one <= other]
LINKS = [link_key(PortId(one, f"p{at}"), PortId(other, f"q{at}")) for one, other in PAIRS for at in range(2)]


def components_of(links: set[LinkKey]) -> set[frozenset[str]]:
    graph = nx.Graph()
    graph.add_nodes_from(BRIDGES)
    graph.add_edges_from((a.bridge, b.bridge) for a, b in links)
    return {frozenset(some) for some in nx.connected_components(graph)}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from(LINKS), max_size=4), st.booleans()), max_size=15))
def test_components_are_the_connected_components(steps: list[tuple[set[LinkKey], bool]]) -> None:
    components, links = Components(), set[LinkKey]()
    for flipped, asked in steps:
        before = components_of(links)
        known = {name: components.component_of(name) for name in BRIDGES} if asked else None
        gone = links & flipped
        links ^= flipped
        changed = components.update(flipped - gone, gone)
        after = components_of(links)
        assert changed or before == after
        if known is not None:
            assert changed == (before != after), "it is known how it was, so it is known what changed"
            assert changed or all(components.component_of(name) is known[name] for name in BRIDGES)
        if asked:
            assert {components.component_of(name) for name in BRIDGES} == after
            assert all(
                components.component_of(one) is components.component_of(other)
                for one in BRIDGES
                for other in components.component_of(one)
            )
