"""Three hosts, three daemons, three members of one database, in network namespaces on one bridge; and things that go
wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ovspane.server.transactor import PATIENCE as REFUSES
from tests.support.cluster import run
from tests.support.cluster_hosts import COMMAND, OK_ID, PROJECT, Host, Load, form, hosts, leader, same_everywhere
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import LONG, PATIENCE, too_slow_to_tell, wait_for


def test_a_thousand_race_for_the_last_room(three: list[Host]) -> None:
    """1 000 reservations of 1 Mb from all three hosts for a share with room for 200."""
    assert three[0].ask("NewShare a for (*) [reserve <= 200Mb] on rootShare.") == "OK"
    wait_for(
        lambda: all("share a" in host.ask("Check reserve(dstPort=1) = 300Mb on a.") for host in three),
        "share on all hosts",
    )
    ports = itertools.count(1)
    statements = (f"reserve(dstPort={next(ports)}) = 1Mb on a to +1h." for _ in range(1000))
    lock = threading.Lock()

    def shared() -> Iterator[str]:
        while True:
            with lock:
                one = next(statements, None)
            if one is None:
                return
            yield one

    started = time.monotonic()
    loads = [Load(host, shared()) for host in three for _ in range(4)]
    for load in loads:
        load.start()
    for load in loads:
        load.join(LONG)
        assert not load.is_alive()
    seconds = time.monotonic() - started
    granted = [number for load in loads for number in load.granted]
    others = [answer for load in loads for answer in load.others]
    print(f"1000 statements in {seconds:.2f} s ({1000 / seconds:.0f}/s), {len(granted)} granted")
    assert (len(granted), len(others)) == (200, 800)
    assert len(set(granted)) == 200
    assert all("does not fit share a" in answer for answer in others), others[:3]
    assert set(same_everywhere(three)) == set(granted)
    assert "0b free" in three[2].ask("Check reserve(dstPort=1) = 1Mb on a.")


def test_the_leader_dies_under_load(three: list[Host]) -> None:
    """kill -9 of the leading member, then of the one that leads after it was back: no OK is lost, none is doubled."""
    assert three[0].ask("NewShare a for (*) [reserve <= 100Gb] on rootShare.") == "OK"
    wait_for(lambda: all(host.ask("Check reserve(dstPort=1) = 1Mb on a.").startswith("OK") for host in three), "share")
    loads = [
        Load(host, (f"reserve(srcPort={n}, dstPort={port}) = 1kb on a to +1h." for port in range(1, 60000)))
        for n, host in enumerate(three * 2, start=1)
    ]
    for load in loads:
        load.start()
    pauses: list[float] = []
    for _ in range(2):
        wait_for(lambda: all(load.times for load in loads), "load")
        before = [len(load.granted) for load in loads]
        time.sleep(2.0)
        after = [len(load.granted) for load in loads]
        victim = leader(three)
        for host in three:
            rate = sum(b - a for a, b, load in zip(before, after, loads, strict=True) if load.host is host) / 2.0
            print(
                f"{rate:.0f} OK/s from two clients on {host.name}, whose member "
                f"{'leads' if host is victim else 'follows'}"
            )
        killed = time.monotonic()
        victim.kill("member")
        wait_for(lambda at=killed: all(load.times[-1] > at + 0.05 for load in loads), "OK on every host")  # type: ignore[misc]
        pauses.append(max(min(t for t in load.times if t > killed + 0.05) for load in loads) - killed)
        time.sleep(1.0)
        victim.run_member()  # with an old log: it catches up
        assert victim.joined()
    for load in loads:
        load.ending.set()
    for load in loads:
        load.join(PATIENCE)
        assert not load.is_alive()
    granted = [number for load in loads for number in load.granted]
    print(f"recovery {', '.join(f'{pause:.2f} s' for pause in pauses)}; {len(granted)} granted")
    others = [answer for load in loads for answer in load.others]
    assert len(set(granted)) == len(granted) > 100
    listed = same_everywhere(three)
    if (
        others
        and max(pauses) > REFUSES
        and all(answer.startswith("NO not stored, nothing changed: ") for answer in others)
    ):
        assert set(listed) == set(granted)
        too_slow_to_tell(
            f"an election took {max(pauses):.1f} s; daemons refuse changes after {REFUSES:g} s without a leader"
        )
    assert others == []
    assert set(listed) == set(granted), (
        f"lost {set(granted) - set(listed)}, doubled or extra {set(listed) - set(granted)}"
    )


def test_a_host_that_is_cut_off(three: list[Host]) -> None:
    """It keeps what it has, ends requests on time, refuses changes with the reason, and catches up."""
    assert three[0].ask("NewShare a for (*) [reserve <= 10Mb] on rootShare.") == "OK"
    wait_for(lambda: all(host.ask("Check reserve(dstPort=1) = 1Mb on a.").startswith("OK") for host in three), "share")
    said = time.monotonic()
    short = int(OK_ID.match(three[0].ask("reserve(dstPort=80) = 2Mb on a to +6s."))[1])  # type: ignore[index]
    same_everywhere(three)
    away = leader(three)  # the hardest case: its own member leads
    others = [host for host in three if host is not away]
    away.cut_off(True)
    answer = away.ask("reserve(dstPort=81) = 2Mb on a to +1h.")
    assert answer.startswith(("NO not stored, nothing changed: ", "NO it is not known whether this was stored")), answer
    answer = away.ask("reserve(dstPort=81) = 2Mb on a to +1h.")
    assert answer.startswith("NO not stored, nothing changed: no leader among "), answer
    long = int(OK_ID.match(others[0].ask("reserve(dstPort=82) = 2Mb on a to +1h."))[1])  # type: ignore[index]
    wait_for(lambda: short not in away.requests(), "end by its own copy")
    assert time.monotonic() - said > 5
    assert long not in away.requests()
    leads = leader(others)
    status = [*COMMAND, "cluster", "--dir", str(leads.member), "status"]

    def told() -> str:
        return subprocess.run(leads.command(*status), capture_output=True, text=True, cwd=PROJECT).stdout

    wait_for(lambda: f"at tcp:{away.ip}:6644 was not heard of for" in told(), "the member named that is not heard")
    away.cut_off(False)
    wait_for(lambda: long in away.requests(), "catching up")
    wait_for(lambda: away.ask("reserve(dstPort=83) = 2Mb on a to +1h.").startswith("OK"), "admission again")
    assert others[1].ask("reserve(dstPort=84) = 7Mb on a to +1h.").startswith("NO 7Mb does not fit share a")
    same_everywhere(three)


def test_backup_restore_leave_and_kick(three: list[Host]) -> None:
    first, second, third = three
    assert first.ask("NewShare a for (*) [reserve <= 10Mb] on rootShare.") == "OK"
    before = int(OK_ID.match(first.ask("reserve(dstPort=80) = 2Mb on a to +1h."))[1])  # type: ignore[index]
    same_everywhere(three)
    file = first.folder / "backup"
    third.cluster("backup", str(file))
    after = int(OK_ID.match(second.ask("reserve(dstPort=81) = 2Mb on a to +1h."))[1])  # type: ignore[index]
    assert set(same_everywhere(three)) == {before, after}
    first.cluster("restore", str(file))
    wait_for(lambda: all(set(host.requests()) == {before} for host in three), "what the backup has")
    wait_for(lambda: second.ask("reserve(dstPort=82) = 2Mb on a to +1h.").startswith("OK"), "admission after a restore")
    same_everywhere(three)
    assert "Daemons:" in first.cluster("status")
    third.cluster("leave")
    third.kill("member")
    wait_for(lambda: first.cluster("status").count(" at tcp:") == 2, "two members")
    assert second.ask("reserve(dstPort=83) = 2Mb on a to +1h.").startswith("OK")
    shutil.rmtree(third.member)
    third.cluster("join", f"tcp:{third.ip}", f"tcp:{second.ip}")
    third.run_member()
    assert len(same_everywhere(three)) == 3
    again = [*COMMAND, "cluster", "--dir", str(third.member), "create", "tcp:10.9.0.3"]
    done = subprocess.run(again, capture_output=True, cwd=PROJECT)
    assert done.returncode == 1
    assert b"is there already" in done.stderr


def drops(switch: DummyOvs) -> set[str]:
    """The destination ports whose packets the bridge drops."""
    return set(re.findall(r"tp_dst=(\d+) actions=drop", switch.ofctl("dump-flows", "--no-names", "br0")))


def test_flows_on_every_host() -> None:
    """What is said on one host is on the switches of all; a host that is cut off keeps its flows, and ends them on
    time."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(hosts())
        switches = [stack.enter_context(DummyOvs()) for _ in made]
        form(made)
        for host, switch in zip(made, switches, strict=True):
            switch.add_bridge("br0")
            switch.add_port("br0", "p1", 1)
            host.ovsdb = f"unix:{switch.database}"
            host.run_daemon(made)
        first, second, third = made
        assert first.ask("NewShare a for (*) [deny = True] on rootShare.") == "OK"
        wait_for(
            lambda: all("share a" not in host.ask("Check deny(dstPort=1, transport=TCP) on a.") for host in made),
            "share",
        )
        assert first.ask("deny(dstPort=80, transport=TCP) on a to +1h.").startswith("OK")
        said = time.monotonic()
        assert second.ask("deny(dstPort=81, transport=TCP) on a to +20s.").startswith("OK")
        wait_for(lambda: all(drops(switch) == {"80", "81"} for switch in switches), "flows on every host")
        third.cut_off(True)
        wait_for(lambda: any(host.leads() for host in (first, second)), "leader among those that are left")
        wait_for(
            lambda: first.ask("deny(dstPort=82, transport=TCP) on a to +1h.").startswith("OK"),
            "admission on the others",
        )
        wait_for(lambda: all(drops(switch) >= {"80", "82"} for switch in switches[:2]), "new flow on the others")
        seen = drops(switches[2])
        if time.monotonic() < said + 19:
            assert seen == {"80", "81"}
        wait_for(lambda: drops(switches[2]) == {"80"}, "end on time on the host that is cut off")
        assert time.monotonic() - said > 18  # not before its time, and while it is still cut off
        third.cut_off(False)
        wait_for(lambda: drops(switches[2]) == {"80", "82"}, "catching up")
        # And a daemon that comes back installs what was said meanwhile.
        second.kill("daemon")
        assert first.ask("deny(dstPort=83, transport=TCP) on a to +1h.").startswith("OK")
        second.run_daemon(made)
        wait_for(lambda: all(drops(switch) == {"80", "82", "83"} for switch in switches), "the same flows everywhere")


def test_over_ssl(tmp_path: Path) -> None:
    """Members and daemons with certificates; a daemon whose certificate another authority signed is kept out."""
    for name in ("ca", "other"):
        words = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
        run("openssl", *words, "-keyout", f"{tmp_path}/{name}.key", "-out", f"{tmp_path}/{name}.pem")
        run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=host",
            "-keyout", f"{tmp_path}/{name}-host.key", "-out", f"{tmp_path}/{name}-host.csr")  # fmt: skip
        signer = ("-CA", f"{tmp_path}/{name}.pem", "-CAkey", f"{tmp_path}/{name}.key", "-CAcreateserial", "-days", "2")
        request, made_of_it = f"{tmp_path}/{name}-host.csr", f"{tmp_path}/{name}-host.pem"
        run("openssl", "x509", "-req", "-in", request, *signer, "-out", made_of_it)
    files = (
        "--certificate",
        f"{tmp_path}/ca-host.pem",
        "--key",
        f"{tmp_path}/ca-host.key",
        "--authority",
        f"{tmp_path}/ca.pem",
    )
    text = '[db_tls]\ncertificate = "{0}/{1}-host.pem"\nkey = "{0}/{1}-host.key"\nauthority = "{0}/ca.pem"'
    with hosts(2) as made:
        form(made[:1], "ssl", *files)
        for host in made:
            host.tls = text.format(tmp_path, "ca")
            host.run_daemon(made[:1])
        assert made[0].ask("NewShare a for (*) [reserve <= 10Mb] on rootShare.") == "OK"
        wait_for(lambda: made[1].ask("reserve(dstPort=80) = 10Mb on a to +1h.").startswith("OK"), "admission over ssl")
        assert made[0].ask("reserve(dstPort=81) = 1Mb on a to +1h.").startswith("NO 1Mb does not fit")
        made[1].kill("daemon")
        made[1].tls = text.format(tmp_path, "other")
        made[1].configure(made[:1])
        wait_for(lambda: "no leader among ssl:10.9.0.1" in made[1].log("daemon"), "refusal of the certificate")
        assert not made[1].answers()
