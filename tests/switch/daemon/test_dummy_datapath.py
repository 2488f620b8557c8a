"""The whole daemon on the dummy datapath: statements become flows, meters and queue rows, beside those of others."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import stat
import time
from collections.abc import Iterator

import pytest

from tests.support.daemon_bridges import (
    ALICE,
    COOKIE,
    RATES,
    TREE,
    add_foreign,
    bridge,
    daemon_on,
    drops,
    flood,
    flows,
    make_foreign,
    others,
    rows,
    wait_verdict,
)
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE, too_slow_to_tell, wait_for


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


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
        bridge(switch, "nowhere")
        wait_for(lambda: flows(switch, "nowhere") == flows(switch, "br1"), "pipeline on the bridge that came")


def test_protocols_are_added_and_taken_back(switch: DummyOvs) -> None:
    bridge(switch, "old", "OpenFlow10,OpenFlow13")
    bridge(switch, "new", "OpenFlow13,OpenFlow14")
    switch.vsctl("set", "bridge", "old", "external_ids:theirs=1")

    def protocols(name: str) -> str:
        return switch.vsctl("get", "bridge", name, "protocols").strip()

    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        daemon.request("deny(user=Alice) on aAC to +1h.")
        wait_verdict(switch, f"in_port=1,udp,{ALICE}", dropped=True, name="old")
        assert protocols("old") == "[OpenFlow10, OpenFlow13, OpenFlow14]"
        assert daemon.stop() == 0
        for _ in range(2):  # a second time there is nothing left to do
            done = daemon.run("cleanup")
            assert done.returncode == 0, done.stderr
            assert protocols("old") == "[OpenFlow10, OpenFlow13]"
            assert protocols("new") == "[OpenFlow13, OpenFlow14]"
            assert switch.vsctl("get", "bridge", "old", "external_ids").strip() == '{theirs="1"}'
    assert COOKIE not in switch.run("ovs-ofctl", "-O", "OpenFlow13", "dump-flows", "old")


def test_cleanup_removes_what_is_ours_and_nothing_else(switch: DummyOvs) -> None:
    make_foreign(switch)
    before = others(switch)
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        daemon.request("deny(user=Alice, dstPort=80) on aAC to +1h.")
        daemon.request("ratelimit(user=Alice, dstPort=81) = 2Mb on aBW to +1h.")
        assert "note=unenforced" in daemon.ask("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        wait_for(lambda: len(rows(switch, "qos")) == 2, "QoS rows of two ports")
        daemon.settle()
        daemon.wait_for_log("no queues on port br0p3: it has a QoS row of another owner")
        assert len(flows(switch)) > 8
        assert len(rows(switch, "queue")) == 4
        assert "set(skb_priority(" in switch.actions("br0", f"in_port=1,udp,{ALICE},udp_dst=82")
        assert daemon.stop() == 0
        assert len(flows(switch)) > 8  # the daemon ended, its flows stay
        assert len(rows(switch, "qos")) == 2
        done = daemon.run("cleanup")
        assert done.returncode == 0, done.stderr
    assert flows(switch) == []
    assert others(switch) == before
    assert rows(switch, "qos") + rows(switch, "queue") == []


def test_what_is_not_ours_survives_everything(switch: DummyOvs) -> None:
    """Byte for byte: start, statements, kill -9, restart, a switch that restarts, others' damage to us, cleanup."""
    make_foreign(switch)
    before = others(switch)
    packet = f"in_port=1,udp,{ALICE},udp_dst=80"
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        assert others(switch) == before
        daemon.request("deny(user=Alice, dstPort=80) on aAC to +1h.")
        limited = daemon.request("ratelimit(user=Alice, dstPort=81) = 2Mb on aBW to +1h.")
        daemon.request("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        wait_for(lambda: len(rows(switch, "queue")) == 4, "two queues on each of two ports")
        daemon.settle()
        assert others(switch) == before
        daemon.kill()
        switch.ofctl("del-flows", "br0", "table=100")
        daemon.start()
        wait_verdict(switch, packet, dropped=True)
        daemon.do(f"Cancel {limited}.")
        wait_for(lambda: "meter=1000001 " not in switch.ofctl("dump-meters", "br0"), "end of the meter")
        daemon.settle()
        assert others(switch) == before
        switch.restart_vswitchd(kill=True)
        flood(switch, "br0")
        add_foreign(switch)
        wait_verdict(switch, packet, dropped=True)
        daemon.settle()
        assert others(switch) == before
        switch.ofctl("del-flows", "br0", "table=100")
        wait_verdict(switch, packet, dropped=True)
        assert others(switch) == before
        assert daemon.stop() == 0
        assert daemon.run("cleanup").returncode == 0
    assert others(switch) == before
    assert flows(switch) == rows(switch, "qos") == rows(switch, "queue") == []


def test_strict_enforcement_refuses_with_the_reason(switch: DummyOvs) -> None:
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        answer = daemon.ask("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        assert answer.startswith("NO ")
        assert "datapath of br0 ignores set_queue" in answer
        assert daemon.requests() == {}


def test_what_somebody_else_deletes_comes_back(switch: DummyOvs) -> None:
    """Queue rows at once (the port's row tells), by a new connection at the latest."""
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        daemon.request("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        daemon.settle()
        assert len(rows(switch, "queue")) == 4
        switch.vsctl("clear", "port", "br0p1", "qos")
        wait_for(lambda: switch.vsctl("get", "port", "br0p1", "qos").strip() != "[]", "QoS on the port again")


def test_rows_go_with_their_ports_and_bridges(switch: DummyOvs) -> None:
    """Rows that nothing refers to any more would stay for ever. Rows of a bridge that is not ours to manage stay."""
    bridge(switch, "br1")
    more = '\nbr1p1 = "20Mb"\nbr1p2 = "20Mb"\nbr1p3 = "20Mb"'

    def count() -> tuple[int, int]:
        return len(rows(switch, "qos")), len(rows(switch, "queue"))

    with daemon_on(switch, RATES + more) as daemon:
        daemon.do(*TREE)
        daemon.request("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        wait_for(lambda: count() == (5, 10), "two queues on each of five ports")
        switch.vsctl("del-port", "br1p3")
        wait_for(lambda: count() == (4, 8), "end of the port's rows")
        switch.vsctl("del-br", "br0")
        wait_for(lambda: count() == (2, 4), "end of the bridge's rows")
        bridge(switch, "br0")
        wait_for(lambda: count() == (4, 8), "rows for the bridge that came again")
        daemon.settle()
        assert daemon.stop() == 0
        there = rows(switch, "queue")
        assert daemon.run("cleanup", "--bridge", "br1").returncode == 0
        assert set(rows(switch, "queue")) < set(there)
        assert count() == (2, 4)
        assert flows(switch, "br1") == []
        assert flows(switch, "br0") != []
    left = rows(switch, "queue")
    with daemon_on(switch, RATES, "--bridge", "br1") as other:
        other.do("AddUser Bob.")
        wait_for(lambda: flows(switch, "br1") != [], "pipeline on br1")
        assert other.stop() == 0
    assert rows(switch, "queue") == left


def test_two_daemons(switch: DummyOvs) -> None:
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        daemon.request("deny(user=Alice) on aAC to +1h.")
        daemon.settle()
        before = flows(switch)
        second = daemon_on(switch)
        try:
            second.state_dir = daemon.state_dir
            second.launch()
            assert second.process is not None
            assert second.process.wait(10) == 1
            assert f"{daemon.state_dir} is in use by another ovspane daemon (pid {daemon.pid})" in second.log
            second.log_file.unlink()
            second.state_dir, second.socket = second.folder / "other", daemon.socket
            second.launch()
            assert second.process.wait(10) == 1
            assert f"{daemon.socket} belongs to another ovspane daemon that is running" in second.log
        finally:
            second.close()
        assert daemon.requests()
        assert flows(switch) == before


def test_a_bridge_has_one_daemon(switch: DummyOvs) -> None:
    """Two daemons with state of their own: the second says so and touches nothing; when the first dies it takes
    over."""
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        daemon.request("deny(user=Alice, dstPort=80) on aAC to +1h.")
        daemon.request("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        daemon.settle()
        wait_for(lambda: len(rows(switch, "queue")) == 4, "two queues on each of two ports")
        before = flows(switch), rows(switch, "qos"), rows(switch, "queue")
        with daemon_on(switch, RATES) as second:
            second.do(*TREE)
            number = second.request("deny(user=Alice, dstPort=90) on aAC to +1h.")
            second.settle()
            assert second.requests()[number].startswith("degraded: bridge br0 is driven by another ovspane daemon ")
            done = second.run("cleanup")
            assert done.returncode == 1
            assert "bridge br0 is driven by another ovspane daemon; stop it first" in done.stderr
            switch.stop_server(kill=True)  # all locks are free; who had them is first
            switch.start_server()
            assert daemon.ask("deny(user=Alice, dstPort=81) on aAC to +1h.").startswith("OK")
            wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=81", dropped=True)
            time.sleep(1.5)  # the second has asked again by now
            assert second.requests()[number].startswith("degraded: bridge br0 is driven by another ovspane daemon ")
            assert not drops(switch, f"in_port=1,udp,{ALICE},udp_dst=90")
            assert set(flows(switch)) > set(before[0])
            assert (rows(switch, "qos"), rows(switch, "queue")) == before[1:]
            daemon.kill()
            wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=90", dropped=True)
            wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=80", dropped=False)
            second.settle()
            assert second.requests()[number].startswith("installed ")


def test_a_socket_path_in_use_is_left_alone(switch: DummyOvs) -> None:
    with contextlib.closing(daemon_on(switch)) as daemon:
        with socket.socket(socket.AF_UNIX) as somebody:
            somebody.bind(str(daemon.socket))
            somebody.listen()
            daemon.launch()
            assert daemon.process is not None
            assert daemon.process.wait(PATIENCE) == 1
            assert f"somebody listens on {daemon.socket}" in daemon.log
            assert stat.S_ISSOCK(daemon.socket.lstat().st_mode)
        assert flows(switch) == []  # the switch was not touched either
        daemon.start()  # nobody listens there any more
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o666
        assert daemon.stop() == 0
        assert not daemon.socket.exists()
        daemon.socket.write_text("a file")
        daemon.launch()
        assert daemon.process.wait(PATIENCE) == 1
        assert daemon.socket.read_text() == "a file"


def test_bad_settings_are_named(switch: DummyOvs) -> None:
    with contextlib.closing(daemon_on(switch, "colour = 3")) as daemon:
        daemon.launch()
        assert daemon.process is not None
        assert daemon.process.wait(PATIENCE) == 2
        assert "unknown setting colour" in daemon.log


def test_a_daemon_without_a_switch_serves_and_waits_for_it(switch: DummyOvs) -> None:
    switch.stop_vswitchd()
    switch.stop_server()
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        number = daemon.request("deny(user=Alice) on aAC to +1h.")
        switch.start_server()
        switch.start_vswitchd()
        # A bridge without flows drops everything: that it drops is not yet the daemon's doing.
        wait_for(lambda: daemon.requests()[number].startswith("installed"), "the deny's flow")
        assert [flow for flow in flows(switch) if "actions=drop" in flow]
        assert drops(switch, f"in_port=1,udp,{ALICE}")
        assert daemon.stop() == 0


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
