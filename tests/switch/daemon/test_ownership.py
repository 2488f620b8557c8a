"""Only what is ours: the daemon and `ovspane cleanup` leave what others own as it is; ours comes back when others take
it, and goes with its ports and bridges.
"""

from __future__ import annotations

from tests.support.daemon_bridges import (
    ALICE,
    COOKIE,
    RATES,
    TREE,
    add_foreign,
    bridge,
    daemon_on,
    flood,
    flows,
    make_foreign,
    others,
    rows,
    wait_verdict,
)
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import wait_for


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
