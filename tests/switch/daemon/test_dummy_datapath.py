"""The whole daemon on the dummy datapath: statements become flows, meters and queue rows, at their times, on every
bridge.
"""

from __future__ import annotations

import itertools
import re
import time

from tests.support.daemon_bridges import (
    ALICE,
    COOKIE,
    TREE,
    bridge,
    daemon_on,
    drops,
    flows,
    wait_verdict,
)
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE, too_slow_to_tell, wait_for


def test_statements_become_verdicts(switch: DummyOvs) -> None:
    before = flows(switch, ours=False)
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        assert not drops(switch, f"in_port=1,tcp,{ALICE},tp_dst=80")
        denied = daemon.request("deny(user=Alice, dstPort=80, transport=TCP) on aAC to +1h.")
        limited = daemon.request("ratelimit(user=Alice, dstPort=81) = 2Mb on aBW to +1h.")
        daemon.settle()
        assert daemon.requests()[denied].startswith("installed deny(")
        assert daemon.requests()[limited].startswith("installed by meter 1000001 ratelimit(")
        assert drops(switch, f"in_port=1,tcp,{ALICE},tp_dst=80")
        for passed in (
            f"in_port=1,tcp,{ALICE},tp_dst=79",
            f"in_port=1,tcp,{ALICE},tp_dst=82",
            f"in_port=1,udp,{ALICE},udp_dst=80",
            "in_port=1,tcp,nw_src=10.0.0.3,nw_dst=10.0.0.2,tp_dst=80",
        ):
            assert switch.actions("br0", passed) == "2"
        assert re.search(r"meter\(\d+\),2", switch.actions("br0", f"in_port=1,udp,{ALICE},udp_dst=81"))
        assert "rate=2000 " in switch.ofctl("dump-meters", "br0")
        daemon.do(f"Cancel {denied}.", f"Cancel {limited}.")
        wait_verdict(switch, f"in_port=1,tcp,{ALICE},tp_dst=80", dropped=False)
        wait_for(lambda: "kbps" not in switch.ofctl("dump-meters", "br0"), "end of the meter")
        assert flows(switch, ours=False) == before


def test_a_request_starts_and_ends_at_its_times(switch: DummyOvs) -> None:
    packet = f"in_port=1,udp,{ALICE},udp_dst=53"
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        daemon.settle()
        said = time.time()
        number = daemon.request("deny(user=Alice, dstPort=53) on aAC from +2s to +5s.")
        verdicts: list[tuple[float, bool]] = []  # when a look was over, and what it saw
        while not verdicts or verdicts[-1][1] or not any(dropped for _, dropped in verdicts):
            dropped = drops(switch, packet)
            verdicts.append((time.time() - said, dropped))
            if verdicts[-1][0] > PATIENCE or (verdicts[-1][0] > 5 and not any(there for _, there in verdicts)):
                break
            time.sleep(0.005)
        looks = [later[0] - one[0] for one, later in itertools.pairwise(verdicts)]
        if max(looks) > 1:
            too_slow_to_tell(f"{max(looks):.1f} s between two looks at the switch")
        first, last = (at[0] for at in (next(v for v in verdicts if v[1]), verdicts[-1]))
        print(f"there after {first:.2f} s, gone after {last:.2f} s")
        # The lower bounds: not before its time. That it is there at all in its three seconds is the upper one.
        assert first > 1.95
        assert last > 4.95
        assert number not in daemon.requests()
        assert daemon.stop() == 0


def test_every_bridge_or_those_named_also_later_ones(switch: DummyOvs) -> None:
    bridge(switch, "br1")
    packet = f"in_port=1,udp,{ALICE},udp_dst=53"
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        daemon.request("deny(user=Alice) on aAC to +1h.")
        daemon.settle()
        assert drops(switch, packet)
        assert drops(switch, packet, "br1")
        bridge(switch, "br2")
        wait_verdict(switch, packet, dropped=True, name="br2")
        assert flows(switch, "br0") == flows(switch, "br1") == flows(switch, "br2")
        daemon.settle()
        switch.vsctl("del-br", "br1")
        daemon.wait_for_log("bridge br1 is gone")
        assert drops(switch, packet, "br2")
        bridge(switch, "br1")
        wait_verdict(switch, packet, dropped=True, name="br1")
        switch.vsctl("del-br", "br0", "--", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy")
        wait_verdict(switch, packet, dropped=True, name="br0")
        daemon.settle()
        assert daemon.stop() == 0
    with daemon_on(switch, "", "--bridge", "br1", "--bridge", "nowhere") as daemon:
        daemon.wait_for_log("bridge nowhere is not there (yet)")
        wait_for(lambda: not drops(switch, packet, "br1"), "another daemon's plan on br1")
        assert drops(switch, packet, "br2")  # not ours to touch
        assert daemon.ask("deny(dstPort=99) on rootShare to +1h.") == "OK id=1 note=no-bridge"
        wait_for(lambda: daemon.requests()[1].startswith("degraded: there is no bridge nowhere"), "the reason")
        daemon.do("Cancel 1.")
        bridge(switch, "nowhere")
        wait_for(lambda: flows(switch, "nowhere") == flows(switch, "br1"), "pipeline on the bridge that came")
        assert daemon.ask("deny(dstPort=99) on rootShare to +1h.") == "OK id=2"
        wait_for(lambda: daemon.requests()[2].startswith("installed"), "status")


def test_strict_enforcement_refuses_with_the_reason(switch: DummyOvs) -> None:
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        answer = daemon.ask("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        assert answer.startswith("NO ")
        assert "datapath of br0 ignores set_queue" in answer
        assert daemon.requests() == {}


def test_hidden_requests_have_no_flow_and_say_so(switch: DummyOvs) -> None:
    """What covers a request has the flow; when it goes, the request's own is there before that is gone."""
    packet = f"in_port=1,tcp,{ALICE},tp_dst=80"
    settings = 'hiding = true\nenforcement = "best-effort"\n'
    with daemon_on(switch, settings) as daemon:
        daemon.do(*TREE)
        wait_for(lambda: flows(switch), "the frame")
        skeleton = len(flows(switch))
        narrow = daemon.request("deny(user=Alice, dstPort=80, transport=TCP) on aAC to +1h.")
        daemon.settle()
        assert daemon.requests()[narrow].startswith("installed deny(")
        wide = daemon.request("deny(user=Alice) on aAC to +1h.")
        limited = daemon.request("ratelimit(user=Alice, dstPort=81) = 2Mb on aBW to +1h.")
        lower = daemon.request("ratelimit(user=Alice) = 1Mb on aBW to +1h.")
        daemon.settle()
        listed = daemon.requests()
        assert listed[narrow].startswith(f"hidden by {wide} deny(")
        assert listed[limited].startswith("installed by meter ")  # a packet passes both limits
        assert all(listed[number].startswith("installed ") for number in (wide, lower))
        assert not [line for line in flows(switch) if f"{COOKIE}{narrow:08x}" in line]
        assert switch.ofctl("dump-meters", "br0").count("kbps") == 2
        assert f"(hidden by {wide}: no flow of its own)" in daemon.ask(
            "Explain (user=Alice, dstPort=80, transport=TCP)."
        )
        with_hiding = len(flows(switch))
    with daemon_on(switch, settings) as daemon:  # a daemon that starts loads the same
        daemon.do(*TREE)
        narrow = daemon.request("deny(user=Alice, dstPort=80, transport=TCP) on aAC to +1h.")
        wide = daemon.request("deny(user=Alice) on aAC to +1h.")
        daemon.settle()
        daemon.kill()
        daemon.start()
        wait_for(lambda: daemon.requests()[wide].startswith("installed "), "status after the restart")
        assert daemon.requests()[narrow].startswith(f"hidden by {wide} ")
        daemon.do(f"Cancel {wide}.")
        daemon.settle()
        assert daemon.requests()[narrow].startswith("installed deny(")
        assert drops(switch, packet)
        assert not drops(switch, f"in_port=1,tcp,{ALICE},tp_dst=81")
    assert skeleton < with_hiding


def test_a_request_that_gets_a_hidden_rule_beside_its_flow_does_not_stay_pending(switch: DummyOvs) -> None:
    """A deny above makes both say that their packets pass; of the narrow one that is hidden, and its queue stays."""
    with daemon_on(switch, 'hiding = true\nenforcement = "best-effort"\n') as daemon:
        daemon.do("NewShare s for (dstPort=80) [reserve <= 1Gb] on rootShare.")
        narrow = daemon.request("reserve(dstPort=80, srcPort=5) = 1Mb on s.")
        daemon.request("allow(dstPort=80) on s.")
        daemon.settle()
        before = daemon.requests()[narrow].split(" reserve(")[0]
        deny = daemon.request("deny(dstPort=80) partial on rootShare.")
        daemon.settle()
        assert daemon.requests()[deny].startswith("hidden")
        assert daemon.requests()[narrow].split(" reserve(")[0] == before != "pending"


def test_a_limit_that_a_lower_one_keeps_names_no_meter(switch: DummyOvs) -> None:
    """Its meter is gone when the lower one's is there, and back when that ends."""
    with daemon_on(switch) as daemon:
        first = daemon.request("ratelimit(dstPort=80) = 2Mb on rootShare.")
        wait_for(lambda: daemon.requests()[first].startswith("installed by meter"), "meter")
        lower = daemon.request("ratelimit(dstPort=80) = 1Mb on rootShare.")
        daemon.settle()
        listed = daemon.requests()
        assert listed[first].startswith("installed ratelimit(") and listed[lower].startswith("installed by meter")
        daemon.do(f"Cancel {lower}.")
        wait_for(lambda: daemon.requests()[first].startswith("installed by meter"), "meter")


def test_a_product_of_sets_is_a_conjunctive_match_and_survives_a_restart(switch: DummyOvs) -> None:
    """Few flows, all ours; a restart changes none; what others take away of it comes back; a cancel leaves none."""
    hosts = ", ".join(f"10.0.0.{number}" for number in range(2, 20, 2))
    ports = ", ".join(str(number) for number in range(81, 99, 2))
    packets = {f"in_port=1,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.{host},tp_dst={port}": host % 2 == 0 and port % 2 == 1
               for host in (2, 3, 18) for port in (81, 82, 97)}  # fmt: skip
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        wait_for(lambda: flows(switch), "the frame")  # in one bundle
        before = flows(switch)
        number = daemon.request(f"deny(user=Alice, dstHost={{{hosts}}}, dstPort={{{ports}}}) on aAC.")
        daemon.settle()
        assert daemon.requests()[number].startswith("installed deny(")
        assert {packet: drops(switch, packet) for packet in packets} == packets
        installed = flows(switch)
        # 9 hosts x 9 ports x 3 transports = 243; and the default of the access table
        assert len(installed) - len(before) == 9 + 27 + 1 + 1
        assert sum("conjunction(" in line for line in installed) == 36
        daemon.stop()
        daemon.start()
        daemon.settle()
        assert flows(switch) == installed
        assert not daemon.logged("flows added")
        switch.ofctl("del-flows", "br0", "table=100,tcp")
        wait_for(lambda: flows(switch) == installed, "repair")
        daemon.do(f"Cancel {number}.")
        wait_for(lambda: flows(switch) == before, "end of the flows")
