"""`ovspane probe` where rules are placed by paths: what stands on each bridge is right or named, also after hosts
moved.

While faults are planted somebody else holds the locks of the bridges, so that the daemon knows the network and the
policy and repairs nothing.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovspane.ovsdb.locks import lock_name
from tests.lab import mininet_net
from tests.lab.hosts import Host
from tests.lab.switch import flows, ofctl, run, vsctl
from tests.lab.topology import Lan
from tests.lab.watcher import LINE, RING, RUNDIR, TREE, Watcher, attached, forward_on_the_flood_tree, speak
from tests.support.patience import wait_for
from tests.system.test_placement import having
from tests.system.test_probe import strict

pytestmark = pytest.mark.system

MAKE = {
    "line": (LINE, lambda: mininet_net.line(3)),
    "tree": (TREE, lambda: mininet_net.tree(2, 2)),
    "ring": (RING, lambda: mininet_net.ring(4)),
}


def settings(links: set[frozenset[str]], lan: Lan, more: str = "", network: str = "") -> str:
    """Rules by paths; each link can send 50 Mb/s, a host's port 100."""
    ports = {end.split(":")[1]: 50 for link in links for end in link} | {host.device: 100 for host in lan.hosts}
    speeds = "\n".join(f'{port} = "{speed}Mb"' for port, speed in sorted(ports.items()))
    return f'enforcement = "best-effort"\n[network]\nplacement = "paths"\n{network}\n[ports]\n{speeds}\n{more}'


def check(daemon: Watcher) -> None:
    """All is as expected. Nothing here takes harm from many packets at once."""
    done = daemon.probe("--all", "--rate", "5000")
    assert done.returncode == 0, done.stdout + done.stderr


def where_hosts_are(lan: Lan) -> str:
    return "".join(
        f'[hosts."{host.mac}"]\nport = "{host.bridge}:{host.device}"\naddresses = ["{host.ip}"]\n' for host in lan.hosts
    )


def ask_for_all(daemon: Watcher, source: Host, sink: Host) -> dict[str, int]:
    """Requests of each kind between two hosts, from one of them, and from anywhere; their numbers by a word."""
    both = f"srcHost={source.ip}, dstHost={sink.ip}"
    daemon.do(
        "NewShare site for (*) [deny = True, allow = True, ratelimit >= 1kb, reserve <= 40Mb] on rootShare.",
        "NewShare web for (dstPort=80-100) [allow = True, reserve <= 10Mb] on site.",
    )
    return {
        word: daemon.request(statement)
        for word, statement in {
            "deny": f"deny({both}, dstPort=80-99) partial on site to +1h.",
            "allow": f"allow({both}, dstPort=85) partial on web to +1h.",
            "anywhere": f"deny(dstHost={sink.ip}, dstPort=7) partial on site to +1h.",
            "range": f"deny(srcHost={source.ip}/30, dstPort=9) partial on site to +1h.",
            "limit": f"ratelimit({both}, transport=UDP) = 3Mb partial on site to +1h.",
            "slower": f"ratelimit(dstHost={sink.ip}, dstPort=53, transport=UDP) = 2Mb partial on site to +1h.",
            "queue": f"reserve({both}, dstPort=5201) = 12Mb partial on site to +1h.",
            "back": f"reserve(srcHost={sink.ip}, dstHost={source.ip}) = 4Mb partial on site to +1h.",
            "from": f"reserve(dstHost={source.ip}, dstPort=5202) = 2Mb partial on site to +1h.",
        }.items()
    }


@pytest.mark.parametrize("name", MAKE)
def test_a_right_network_passes_and_goes_on_when_a_host_moves(name: str) -> None:
    links, make = MAKE[name]
    with make() as lan, Watcher(settings(links, lan)) as daemon:
        daemon.wait(lambda view: view.links == links, "links")
        if name == "ring":
            forward_on_the_flood_tree(RING)
        first, last = lan.hosts[0], lan.hosts[2]
        numbers = ask_for_all(daemon, first, last)
        daemon.settle()
        check(daemon)  # where the hosts are is not known, so all is everywhere
        speak(lan)
        daemon.wait(lambda view: view.hosts == attached(lan), "hosts")
        daemon.settle()
        done = daemon.probe("--all", "--json", "--rate", "5000")
        assert done.returncode == 0, done.stdout + done.stderr
        probes = json.loads(done.stdout)["probes"]
        assert {probe["bridge"] for probe in probes} == set(lan.bridges)
        stands = {
            word: {p["bridge"] for p in probes if number in p["expected"]["requests"]}
            for word, number in numbers.items()
        }
        assert stands["deny"] == {first.bridge}
        assert stands["anywhere"] == stands["range"] == set(lan.bridges)
        limited = {(probe["bridge"], bool(probe["port"])) for probe in probes if probe["seen"]["meters"]}
        assert {bridge for bridge, _ in limited} == set(lan.bridges)
        queued = {probe["bridge"] for probe in probes if probe["seen"]["queue"] is not None}
        assert {first.bridge, last.bridge} <= queued
        run("ip", "link", "set", first.device, "down")
        wait_for(lambda: len(having("actions=drop")) == len(lan.bridges), "deny everywhere")
        daemon.settle()
        check(daemon)


# --- faults


@contextmanager
def held_by_somebody_else(bridges: Sequence[str]) -> Iterator[None]:
    """The locks of the bridges, as another daemon would hold them."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(RUNDIR / "db.sock"))
        connection.settimeout(10)
        for bridge in bridges:
            connection.sendall(json.dumps({"method": "lock", "params": [lock_name(bridge)], "id": bridge}).encode())
            assert b'"locked":true' in connection.recv(4096)
        yield


@contextmanager
def left_alone(
    name: str, ask: Callable[[Watcher, Host, Host], object], more: str = ""
) -> Iterator[tuple[Watcher, Lan]]:
    """Switches that are right, whose daemon goes on without changing them."""
    links, make = MAKE[name]
    with make() as lan, Watcher(settings(links, lan, where_hosts_are(lan), more)) as daemon:
        daemon.wait(lambda view: view.links == links, "links")
        ask(daemon, lan.hosts[0], lan.hosts[2])
        daemon.settle()
        assert daemon.stop() == 0
        with held_by_somebody_else(lan.bridges):
            daemon.start()
            daemon.wait(lambda view: view.links == links, "links")
            yield daemon, lan


def one_flow(bridge: str, *patterns: str) -> str:
    found = [flow for flow in flows(bridge) if all(re.search(pattern, flow) for pattern in patterns)]
    assert found, patterns
    return found[0]


def remove(bridge: str, *patterns: str) -> None:
    ofctl("--strict", "del-flows", bridge, strict(one_flow(bridge, *patterns)))


def copy(flow: str, bridge: str, actions: str = "") -> None:
    """Also there, with its cookie; with other actions perhaps."""
    cookie = re.search(r"cookie=(0x[0-9a-f]+)", flow)
    assert cookie
    ofctl("add-flow", bridge, f"cookie={cookie[1]},{strict(flow)},actions={actions or flow.split('actions=')[1]}")


RESERVED = "nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_dst=5201 "


def queue_number() -> str:
    found = re.search(r"set_queue:(\d+)", one_flow("s2", "tcp,", RESERVED))
    assert found
    return found[1]


def qos(port: str) -> str:
    return vsctl("get", "port", port, "qos").strip()


def no_deny_at_the_entrance() -> str:
    remove("s1", "tcp,nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_dst=0x50/0xfff0", "actions=drop")
    return "passes, the policy says drop"


def no_deny_from_anywhere_on_the_last_bridge() -> str:
    remove("s3", "udp,nw_dst=10.0.0.3,tp_dst=7 ", "actions=drop")
    return "passes, the policy says drop"


def a_deny_that_stayed_when_its_host_moved() -> str:
    copy(one_flow("s1", "tcp,nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_dst=0x50/0xfff0", "actions=drop"), "s2")
    return "is dropped, the policy says pass here (not so elsewhere:"


def no_exception_at_the_entrance() -> str:
    remove("s1", "tcp,nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_dst=85 ", "goto_table")
    return "is dropped, the policy says pass"


def another_queue_on_the_second_bridge() -> str:
    copy(one_flow("s2", "tcp,", RESERVED), "s2", "set_queue:777,goto_table:174")
    return "queue 777, the policy says"


def no_queue_on_the_second_bridge() -> str:
    remove("s2", "tcp,", RESERVED)
    return "queue none, the policy says"


def a_queue_beside_the_way() -> str:
    flow = one_flow("s1", r"nw_src=10.0.0.3,nw_dst=10.0.0.1 ", "set_queue")
    copy(re.sub(r"nw_dst=10.0.0.1 ", "nw_dst=10.0.0.2 ", flow), "s2")
    return "the policy says none"


def no_row_of_the_queue_on_the_way() -> str:
    vsctl("remove", "qos", qos("s2-eth3"), "queues", queue_number())
    return f"queue {queue_number()} is not on s2-eth3, by which its packets leave"


def a_row_of_the_queue_beside_the_way() -> str:
    row = vsctl("get", "qos", qos("s2-eth3"), f"queues:{queue_number()}").strip()
    vsctl("set", "qos", qos("s2-eth2"), f"queues:{queue_number()}={row}")
    return f"queue {queue_number()} is on s2-eth2, by which none of its packets leave"


def no_limit_at_the_entrance() -> str:
    remove("s1", "udp,nw_src=10.0.0.1,nw_dst=10.0.0.3 ", "meter:")
    return "meter none, the policy says"


def another_limit_on_a_bridge_on_the_way() -> str:
    flow = one_flow("s1", "udp,nw_src=10.0.0.1,nw_dst=10.0.0.3 ", "meter:")
    meter = re.search(r"meter:(\d+)", flow)
    assert meter
    ofctl("add-meter", "s2", f"meter={meter[1]},kbps,burst,stats,band=type=drop,rate=3000,burst_size=1500")
    copy(flow, "s2")
    return f"meter {meter[1]}, the policy says none here"


def limited_again_on_the_way() -> str:
    remove("s2", "table=140", "priority=65535,in_port=")
    return "the policy says none here"


FAULTS = (
    no_deny_at_the_entrance,
    no_deny_from_anywhere_on_the_last_bridge,
    a_deny_that_stayed_when_its_host_moved,
    no_exception_at_the_entrance,
    another_queue_on_the_second_bridge,
    no_queue_on_the_second_bridge,
    a_queue_beside_the_way,
    no_row_of_the_queue_on_the_way,
    a_row_of_the_queue_beside_the_way,
    no_limit_at_the_entrance,
    another_limit_on_a_bridge_on_the_way,
    limited_again_on_the_way,
)


def test_each_planted_fault_is_found_and_named(tmp_path: Path) -> None:
    with left_alone("line", ask_for_all) as (daemon, lan):
        find_each(FAULTS, daemon, kept(lan, tmp_path))


def find_each(faults: Sequence[Callable[[], str]], daemon: Watcher, restore: Callable[[], None]) -> None:
    check(daemon)
    for plant in faults:
        named = plant()
        done = daemon.probe("--all", "--rate", "5000")
        assert (plant.__name__, done.returncode) == (plant.__name__, 1), done.stdout + done.stderr
        assert named in done.stdout, f"{plant.__name__}: {done.stdout}"
        restore()
    check(daemon)


def kept(lan: Lan, folder: Path) -> Callable[[], None]:
    """Gives what makes flows and queues again what they are now; additional meters may stay."""
    for bridge in lan.bridges:
        (folder / bridge).write_text("\n".join(flow.replace(", ", ",", 1) for flow in flows(bridge)))
    rows = {}
    for bridge in lan.bridges:
        for port in vsctl("list-ports", bridge).split():
            if (row := qos(port)) != "[]":
                rows[row] = vsctl("get", "qos", row, "queues").strip()

    def restore() -> None:
        for bridge in lan.bridges:
            ofctl("replace-flows", bridge, str(folder / bridge))
        for row, queues in rows.items():
            vsctl("set", "qos", row, f"queues={queues.replace(' ', '')}")

    return restore


# --- steered reservations

STEERED = "flood_tree = true"
TWICE = "udp,dl_dst=00:00:00:00:00:03,nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_dst=100"


def ask_twice(daemon: Watcher, source: Host, sink: Host) -> None:
    """Two reservations between the same hosts, which do not fit one path together."""
    for port in (1001, 1002):
        daemon.request(
            f"reserve(srcHost={source.ip}, dstHost={sink.ip}, dstPort={port}) = 30Mb on rootShare to +10min."
        )


def test_steered_reservations_are_right_and_stay_so_when_a_link_fails() -> None:
    with mininet_net.ring(4) as lan, Watcher(settings(RING, lan, where_hosts_are(lan), STEERED)) as daemon:
        daemon.wait(lambda view: view.links == RING, "ring")
        ask_twice(daemon, lan.hosts[0], lan.hosts[2])
        daemon.settle()
        done = daemon.probe("--all", "--json", "--rate", "5000")
        assert done.returncode == 0, done.stdout + done.stderr
        steered = {(p["bridge"], p["note"]) for p in json.loads(done.stdout)["probes"] if p["expected"]["outputs"]}
        ways = {("s1", "s1-eth2"), ("s2", "s2-eth2"), ("s3", lan.hosts[2].device), ("s1", "s1-eth3"), ("s4", "s4-eth3")}
        assert steered == {(bridge, f"not sent: steered by {port}") for bridge, port in ways}
        run("ip", "link", "set", "s1-eth2", "down")
        wait_for(lambda: len(having("set_queue")) == 3, "end of the queues on the failed path")
        daemon.settle()
        check(daemon)


def steered_elsewhere() -> str:
    flow = one_flow("s1", TWICE, "output")
    copy(flow, "s1", re.sub(r"output:\S+", "output:1", flow.split("actions=")[1]))
    return "it goes by s1-eth1, the policy says s1-eth"


def not_steered_any_more() -> str:
    flow = one_flow("s2", TWICE, "output")
    copy(flow, "s2", re.sub(r"output:\S+", "goto_table:174", flow.split("actions=")[1]))
    return "it goes where the bridge sends it, the policy says s2-eth2"


def steered_by_a_bridge_that_is_not_on_the_path() -> str:
    there = one_flow("s2", TWICE, "output")
    copy(there, "s4")
    return "the policy says none"


STEERING_FAULTS = (steered_elsewhere, not_steered_any_more, steered_by_a_bridge_that_is_not_on_the_path)


def test_each_fault_of_steering_is_found_and_named(tmp_path: Path) -> None:
    with left_alone("ring", ask_twice, STEERED) as (daemon, lan):
        find_each(STEERING_FAULTS, daemon, kept(lan, tmp_path))
