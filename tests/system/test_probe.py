"""`ovspane probe` on real bridges: a right switch passes, each planted fault is found and named, and nobody notices
the probes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.hosts import Host
from tests.lab.packets import listener
from tests.lab.switch import appctl, flows, ofctl, vsctl
from tests.lab.topology import Lan
from tests.support.daemon_process import DaemonProcess, ovspane
from tests.support.patience import LONG, wait_for

OVSDB = "unix:/var/run/openvswitch/db.sock"
RUNDIR = "/var/run/openvswitch"
BEST_EFFORT = 'enforcement = "best-effort"\n[ports]\nh2-eth0 = "20Mb"'
ENTRY = "table=0,priority=65535,cookie=0x70616e6500000000/-1,reg15=0/1"


@pytest.fixture(params=["lan", "mininet_one", "mininet_line"])
def network(request: pytest.FixtureRequest) -> Lan:
    """Each of the lab's networks in turn."""
    found: Lan = request.getfixturevalue(request.param)
    return found


def ask_for_everything(daemon: DaemonProcess, target: Host) -> dict[str, int]:
    """Requests of every kind that overlap, over IPv4, IPv6, VLANs, ARP, TCP, UDP, SCTP and ICMP; their numbers by a
    word."""
    may = "deny = True, allow = True, ratelimit >= 1kb"
    daemon.do(
        "AddUser Alice.",
        "Locate Alice at {10.0.0.1, 2001:db8::/64}.",
        f"NewShare site for (*) [{may}, reserve <= 10Mb] on rootShare.",
        f"NewShare web for (dstHost={target.ip}, dstPort=80-90) [{may}, reserve <= 10Mb] on site.",
        f"NewShare alice for (user=Alice) [{may}, reserve <= 5Mb] on site.",
    )
    return {
        word: daemon.request(statement)
        for word, statement in {
            "ports": f"deny(dstHost={target.ip}, dstPort=80-100) partial on site to +1h.",
            "exception": f"allow(dstHost={target.ip}, dstPort=85) on web to +1h.",
            "six": "deny(srcHost=2001:db8::/48, transport=SCTP) partial on site to +1h.",
            "vlan": "deny(vlan=7, ethType=0x0800) partial on site to +1h.",
            "arp": "deny(vlan=8, ethType=0x0806) partial on site to +1h.",
            "ping": "deny(transport=ICMP, srcHost=10.9.0.0/16) partial on site to +1h.",
            "limit": f"ratelimit(dstHost={target.ip}, transport=UDP) = 2Mb on site to +1h.",
            "slower": f"ratelimit(dstHost={target.ip}, dstPort=53, transport=UDP) = 1Mb on site to +1h.",
            "queue": f"reserve(dstHost={target.ip}, dstPort=85-86) = 1Mb partial on web to +1h.",
            "alice": f"reserve(user=Alice, dstHost={{{target.ip}, 2001:db8:1::/64}}) = 2Mb partial on alice to +1h.",
        }.items()
    }


def test_a_right_switch_passes(network: Lan) -> None:
    with DaemonProcess(OVSDB, RUNDIR, BEST_EFFORT) as daemon:
        daemon.check_probes()  # nothing was asked for yet
        numbers = ask_for_everything(daemon, network.hosts[-1])
        daemon.settle()
        done = daemon.probe("--all", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
    assert {probe["bridge"] for probe in found["probes"]} == set(network.bridges)
    for bridge in network.bridges:
        probes = [probe for probe in found["probes"] if probe["bridge"] == bridge]
        dropped = [probe for probe in probes if probe["seen"]["passes"] is False]
        spoken = {number for probe in probes for number in probe["expected"]["requests"]}
        kinds = {probe["packet"].split()[0] for probe in probes}
        assert spoken == set(numbers.values())
        assert {"TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "ARP"} <= kinds
        assert any(re.search(r"SCTP \[2001:db8:", probe["packet"]) for probe in dropped)
        assert {probe["packet"].split()[0] for probe in dropped} >= {"TCP", "UDP", "SCTP", "ICMP", "ARP"}
        assert len({probe["seen"]["queue"] for probe in probes}) == 3
        assert len({meter for probe in probes for meter in probe["seen"]["meters"]}) == 2
        assert all(
            " vlan 7" in probe["packet"] for probe in dropped if numbers["vlan"] in probe["expected"]["requests"]
        )


def test_of_one_request_and_of_a_flowgroup(lan: Lan) -> None:
    with DaemonProcess(OVSDB, RUNDIR, BEST_EFFORT) as daemon:
        numbers = ask_for_everything(daemon, lan.hosts[1])
        daemon.settle()
        one = daemon.probe(str(numbers["ping"]), "--json")
        assert one.returncode == 0, one.stdout + one.stderr
        packets = [probe["packet"] for probe in json.loads(one.stdout)["probes"]]
        assert {"10.9.0.0", "10.8.255.255", "10.9.255.255", "10.10.0.0"} <= set(
            re.findall(r"(\S+) > ", "\n".join(packets))
        )
        group = daemon.probe("(dstHost=10.0.0.2, dstPort=85, transport=TCP)")
        assert group.returncode == 0, group.stdout + group.stderr
        assert f"pass queue {seen_queue(daemon)}" in group.stdout
        few = daemon.probe("--all", "--most", "10")
        assert few.returncode == 0
        assert re.search(r"10 of \d+ packets were tried; \d of 11 flowgroups were tried", few.stdout)
        for wrong in (
            ["99"],
            ["(dstPort=)"],
            ["(dstPort=80, transport=ICMP)"],
            ["--all", "--in-port", "p9"],
            ["--bridge", "b9"],
        ):
            done = daemon.probe(*wrong)
            assert (done.returncode, bool(done.stderr)) == (2, True), wrong
    assert "no such file" in run_alone("--socket", "/nowhere").lower()


def run_alone(*arguments: str) -> str:
    done = subprocess.run(ovspane("probe", *arguments), capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 2
    return done.stderr


def seen_queue(daemon: DaemonProcess) -> str:
    """The queue of TCP port 85, from the flow itself."""
    found = re.findall(r"priority=\d+,tcp,nw_dst=10.0.0.2,tp_dst=85 actions=set_queue:(\d+)", "\n".join(flows("br0")))
    return str(found[0])


# --- faults


@contextmanager
def left_alone(target: Host) -> Iterator[DaemonProcess]:
    """A daemon that has done its work, and goes on with the policy but without the bridge, so that it repairs
    nothing there."""
    with DaemonProcess(OVSDB, RUNDIR, BEST_EFFORT) as daemon:
        ask_for_everything(daemon, target)
        daemon.settle()
        settings = daemon.config.read_text()
        assert daemon.stop() == 0
        daemon.config.write_text('bridges = ["elsewhere"]\n' + settings)
        daemon.start()
        daemon.config.write_text(settings)
        yield daemon


def strict(text: str) -> str:
    """Match and table of a dumped flow, for --strict commands."""
    return re.sub(r"cookie=0x[0-9a-f]+, |reset_counts ", "", text.split(" actions=")[0]).replace(", ", ",")


def one_flow(*patterns: str) -> str:
    found = [flow for flow in flows("br0") if all(re.search(pattern, flow) for pattern in patterns)]
    assert found, patterns
    return found[0]


def change(flow: str, actions: str) -> None:
    cookie = re.search(r"cookie=(0x[0-9a-f]+)", flow)
    assert cookie
    ofctl("add-flow", "br0", f"cookie={cookie[1]},{strict(flow)},actions={actions}")


def drop_becomes_pass() -> str:
    flow = one_flow("table=100", "tp_dst=100 ", "actions=drop")
    change(flow, "goto_table:101")
    return "the policy says drop"


def block_of_a_range_is_missing() -> str:
    ofctl("--strict", "del-flows", "br0", strict(one_flow("table=100", "udp", "tp_dst=0x60/0xfffc")))
    return "the policy says drop"


def missing_exception() -> str:
    ofctl("--strict", "del-flows", "br0", strict(one_flow("table=100", "tcp", "tp_dst=85 ", "goto_table")))
    return "the policy says pass"


def wrong_queue() -> str:
    change(one_flow("table=172", "tcp", "tp_dst=86 "), "set_queue:777,goto_table:174")
    return "queue 777, the policy says"


def no_queue() -> str:
    ofctl("--strict", "del-flows", "br0", strict(one_flow("table=172", "sctp", "tp_dst=85 ")))
    return "queue none, the policy says"


def wrong_meter() -> str:
    ofctl("add-meter", "br0", "meter=5,kbps,burst,band=type=drop,rate=1000,burst_size=1000")
    change(one_flow("table=140", "tp_dst=53 "), "meter:5,goto_table:141")
    return "meter 5, 1"


def unlimited() -> str:
    ofctl("--strict", "del-flows", "br0", strict(one_flow("table=141", "udp,nw_dst=10.0.0.2 ")))
    return "meter none, the policy says"


def meter_of_another_rate() -> str:
    meter = re.search(r"meter:(\d+)", one_flow("table=140", "tp_dst=53 "))
    assert meter
    ofctl("mod-meter", "br0", f"meter={meter[1]},kbps,burst,stats,band=type=drop,rate=1500,burst_size=1500")
    return f"meter {meter[1]} has 1500000 bit/s, the policy says 1000000"


def additional_drop() -> str:
    ofctl("add-flow", "br0", "table=173,priority=60000,tcp,nw_src=172.16.3.4,tp_dst=12345,actions=drop")
    ofctl("add-flow", "br0", "table=172,priority=60000,tcp,nw_src=172.16.3.4,tp_dst=12345,actions=goto_table:173")
    ofctl("add-flow", "br0", "table=173,actions=goto_table:174")
    return "by table=173,priority=60000,cookie=0x0 actions=drop"


def additional_drop_with_our_cookie() -> str:
    ofctl("add-flow", "br0", "cookie=0x70616e65000003e7,table=100,priority=60000,ipv6,ipv6_dst=fd00::/64,actions=drop")
    return "by table=100,priority=60000,cookie=0x70616e65000003e7 actions=drop"


def drop_by_one_port() -> str:
    ofctl("add-flow", "br0", "table=100,priority=60000,in_port=3,arp,actions=drop")
    return "table=100,priority=60000,cookie=0x0 actions=drop"


def flow_with_an_unknown_field() -> str:
    ofctl("add-flow", "br0", "table=100,priority=60000,ip,nw_ttl=7,actions=drop")
    return "is in a table of ovspane's"


def output_in_our_tables() -> str:
    ofctl("add-flow", "br0", "table=100,priority=60000,udp,tp_dst=4321,actions=output:2")
    return "not sent: a flow does what none of ours does: table=100,priority=60000,cookie=0x0 actions=output:"


def no_entry() -> str:
    ofctl("--strict", "del-flows", "br0", "table=0,priority=65535,reg15=0/1")
    return "does not enter the pipeline"


def no_exit() -> str:
    ofctl("--strict", "del-flows", "br0", "table=174,priority=0")
    return "the policy says pass"


def first_fragments_are_missing() -> str:
    ofctl("--strict", "del-flows", "br0", strict(one_flow("table=100", "ct_tp_dst=100,", "actions=drop")))
    return "in fragments it passes, the policy says drop"


def fragments_are_not_gathered() -> str:
    ofctl("--strict", "del-flows", "br0", strict(one_flow("table=100", ",ip,", "actions=ct")))
    return "in fragments it passes, the policy says drop"


FAULTS = (
    first_fragments_are_missing,
    fragments_are_not_gathered,
    drop_becomes_pass,
    block_of_a_range_is_missing,
    missing_exception,
    wrong_queue,
    no_queue,
    wrong_meter,
    unlimited,
    meter_of_another_rate,
    additional_drop,
    additional_drop_with_our_cookie,
    drop_by_one_port,
    flow_with_an_unknown_field,
    output_in_our_tables,
    no_entry,
    no_exit,
)


def test_each_planted_fault_is_found_and_named(lan: Lan, tmp_path: Path) -> None:
    kept = tmp_path / "flows"
    with left_alone(lan.hosts[1]) as daemon, watching(lan) as delivered:
        kept.write_text("\n".join(flow.replace(", ", ",", 1) for flow in flows("br0")))
        meters = re.findall(r"(meter=\d+) (.*) bands=\ntype=drop (.*)\n", ofctl("dump-meters", "br0"))
        daemon.check_probes()
        assert meters
        for plant in FAULTS:
            named = plant()
            done = daemon.probe("--all", "--rate", "5000")
            assert (plant.__name__, done.returncode) == (plant.__name__, 1), done.stdout + done.stderr
            assert named in done.stdout, f"{plant.__name__}: {done.stdout}"
            ofctl("replace-flows", "br0", str(kept))
            for name, flags, band in meters:
                settings = ",".join([name, *flags.split(), "band=type=drop", *band.split()])
                ofctl("mod-meter", "br0", settings)
        daemon.check_probes()
        assert delivered() == 0


# --- nobody notices


@contextmanager
def watching(lan: Lan) -> Iterator[Callable[[], int]]:
    """Gives a function that tells how many probes came to hosts."""
    links = [listener(host) for host in lan.hosts]
    for link in links:
        link.ins.setblocking(False)

    def count() -> int:
        found = 0
        for link in links:
            while True:
                try:
                    data = link.ins.recv(4096)
                except BlockingIOError:
                    break
                found += b"ovspane probe" in data
        return found

    try:
        yield count
    finally:
        for link in links:
            link.close()


def state(lan: Lan) -> list[str]:
    """All that a bridge has but counters and ages: flows, meters, database, learnt addresses (but those of the
    devices between the bridges, which the kernel lets speak IPv6 when it likes)."""
    found = [line for bridge in lan.bridges for line in flows(bridge)]
    devices = {path.read_text().strip() for path in Path("/sys/class/net").glob("*/address")}
    for bridge in lan.bridges:
        found += ofctl("dump-meters", bridge).splitlines()[1:]
        learnt = [line.split()[:3] for line in appctl("fdb/show", bridge).splitlines()]
        found += sorted(" ".join(entry) for entry in learnt if entry[2] not in devices)
    for table in ("bridge", "port", "qos", "queue", "open_vswitch"):
        found += re.sub(r"statistics *:.*", "", vsctl("list", table)).splitlines()
    return found


def test_a_live_switch_is_not_disturbed(network: Lan) -> None:
    first, *_, last = network.hosts
    with DaemonProcess(OVSDB, RUNDIR, BEST_EFFORT) as daemon, watching(network) as delivered:
        ask_for_everything(daemon, last)
        daemon.settle()
        before = state(network)
        with first.pinging(last, 0.01) as pings:
            daemon.check_probes()
        assert (pings.lost, pings.received > 0) == (0, True)
        assert delivered() == 0
        assert state(network) == before


def test_delivered_only_when_asked(lan: Lan) -> None:
    _, h2, _ = lan.hosts
    with DaemonProcess(OVSDB, RUNDIR, BEST_EFFORT) as daemon, watching(lan) as delivered:
        daemon.do(f"deny(dstHost={h2.ip}, dstPort=80, transport=UDP) on rootShare.")
        daemon.settle()
        group = f"(dstHost={h2.ip}, dstEth={h2.mac}, transport=UDP, dstPort=80-81)"
        assert daemon.probe(group).returncode == 0
        assert delivered() == 0
        done = daemon.probe(group, "--deliver", "--json")
        assert done.returncode == 0, done.stdout
        passed = [probe for probe in json.loads(done.stdout)["probes"] if probe["seen"]["passes"]]
        wait_for(lambda: delivered() > 0, "delivered probe")
        assert any(probe["seen"]["out"] == h2.device for probe in passed)


def without_discovery() -> list[str]:
    """The flows of br0 but for those that discovery renews."""
    return [flow for flow in flows("br0") if "cookie=0x70746f70" not in flow]


def test_a_probe_that_is_killed_leaves_what_goes_by_itself(lan: Lan) -> None:
    with DaemonProcess(OVSDB, RUNDIR) as daemon:
        daemon.do("deny(dstPort=9) on rootShare.")
        daemon.settle()
        before = without_discovery()
        command = ovspane("probe", "--rate", "1", "--config", str(daemon.config), "--socket", str(daemon.socket))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: any("cookie=0x70707262" in flow for flow in flows("br0")), "catch flow")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        (left,) = set(without_discovery()) - set(before)
        assert "hard_timeout=30" in left
        assert "table=0" in left or "table" not in left
        wait_for(lambda: without_discovery() == before, "end of what it left")
