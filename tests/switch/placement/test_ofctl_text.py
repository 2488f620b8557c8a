"""Flows and meters as text, loaded by ovs-ofctl into a real switch and read back: what comes back is what was meant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ovspane.openflow.meters import as_programmed
from ovspane.packets.match import ANY, ETH_IPV4, ETH_IPV6, Match
from ovspane.placement.flow_rules import FlowRule, Instructions, Meter
from ovspane.placement.ofctl_text import actions_text, flow_text, match_text, meter_text
from ovspane.placement.port_vlans import counterpart, entry_flows
from tests.support.bridge_session import BRIDGE, run, session
from tests.support.flow_rules import rules
from tests.support.ovs_dummy import DummyOvs


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        switch.add_bridge(BRIDGE)
        yield switch


TAGGED = counterpart(Match.of(vlan=0x100A)) or ANY


@pytest.mark.parametrize(
    ("match", "text"),
    [
        (ANY, ""),
        (Match.of(eth_type=ETH_IPV4), "ip"),
        (Match.of(eth_type=ETH_IPV4, ip_proto=6, tp_dst=80), "tcp,tp_dst=80"),
        (Match.of(eth_type=ETH_IPV6, ip_proto=17, tp_src=(0x50, 0xFFF0)), "udp6,tp_src=0x50/0xfff0"),
        (
            Match.of(eth_type=ETH_IPV4, ip_proto=47, ipv4_src=(0x0A000000, 0xFF000000)),
            "ip,nw_proto=47,nw_src=10.0.0.0/8",
        ),
        (Match.of(eth_type=ETH_IPV4, ipv4_dst=(0x0A000001, 0xFF0000FF)), "ip,nw_dst=10.0.0.1/255.0.0.255"),
        (Match.of(eth_type=ETH_IPV6, ipv6_dst=(0xFD << 120, 0xFF << 120)), "ipv6,ipv6_dst=fd00::/8"),
        (Match.of(eth_type=0x0806, vlan=0), "arp,vlan_vid=0x0"),
        (Match.of(eth_type=0x88CC), "dl_type=0x88cc"),
        (Match.of(eth_src=(0x020000000000, 0xFF0000000000)), "dl_src=02:00:00:00:00:00/ff:00:00:00:00:00"),
        (Match.of(mark=0), "reg15=0x0/0x1"),
        (Match.of(vlan=(0, 0xFFF)), "vlan_vid=0x0/0xfff"),
        (TAGGED, "vlan_vid=0x0/0xfff,reg12=0xa/0xfff"),
    ],
)
def test_matches_read_as_people_write_them(match: Match, text: str) -> None:
    assert match_text(match) == text


def test_actions_in_their_order() -> None:
    assert actions_text(Instructions()) == "drop"
    assert actions_text(Instructions(port_vlan=10, resubmit=100)) == "load:0xa->NXM_NX_REG12[0..11],resubmit(,100)"
    assert actions_text(Instructions(meter=3, goto=141)) == "meter:3,goto_table:141"
    assert actions_text(Instructions(set_queue=5, set_mark=True, resubmit=0)) == (
        "load:0x1->NXM_NX_REG15[0],set_queue:5,resubmit(,0)"
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@example(flows=[*entry_flows(100, {3: 10, 4: 0xFFF}).values()])
@example(flows=[FlowRule(100, 5, TAGGED, Instructions(goto=101))])
@given(flows=st.lists(rules(), min_size=1, max_size=40))
def test_ovs_ofctl_loads_the_flow_that_was_meant(ovs: DummyOvs, flows: list[FlowRule]) -> None:
    wanted = {rule.key: rule for rule in flows}
    path = ovs.rundir / "flows.txt"
    path.write_text("".join(flow_text(rule) + "\n" for rule in wanted.values()))
    ovs.ofctl("del-flows", BRIDGE)
    ovs.ofctl("add-flows", BRIDGE, str(path))

    async def dump() -> None:
        async with session(ovs) as bridge:
            assert await bridge.dump() == wanted

    run(dump())


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(rate=st.integers(1, 10**11), burst=st.integers(1, 10**11))
def test_ovs_ofctl_makes_the_meter_that_was_meant(ovs: DummyOvs, rate: int, burst: int) -> None:
    meter = Meter(1_000_003, rate, burst)
    ovs.ofctl("del-meters", BRIDGE)
    ovs.ofctl("add-meter", BRIDGE, meter_text(meter))

    async def read() -> None:
        async with session(ovs) as bridge:
            assert await bridge.meter_table() == {meter.id: as_programmed(meter)}

    run(read())
