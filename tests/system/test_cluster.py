"""Three hosts, three daemons, three members of one database, in network namespaces on one bridge; and things that go
wrong.

Each host is a namespace with its own `ovspane cluster run` (made by `ovspane cluster create` and `join`) and its own
daemon. Where a test is about flows, each has an ovs-vswitchd of its own (dummy datapath), else the daemons serve
without a switch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ovspane.server.transactor import PATIENCE as REFUSES
from tests.support.cluster import run
from tests.support.daemon_process import Talk
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import LONG, PATIENCE, too_slow_to_tell, wait_for

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "ovspane.cli.main"]
_ID = re.compile(r"OK id=(\d+)")


@dataclass(slots=True)
class Host:
    """A namespace with a member and a daemon; `folder` has all that they keep."""

    number: int
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ovsdb: str = ""
    tls: str = ""
    more: str = ""

    @property
    def name(self) -> str:
        return f"c{self.number}"

    @property
    def ip(self) -> str:
        return f"10.9.0.{self.number}"

    @property
    def member(self) -> Path:
        return self.folder / "member"

    @property
    def socket(self) -> Path:
        return self.folder / "o.sock"

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def ovspane(self, *words: str, timeout: float = PATIENCE) -> str:
        done = subprocess.run(
            [*self.command(*COMMAND), *words], capture_output=True, text=True, timeout=timeout, cwd=PROJECT
        )
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def cluster(self, action: str, *words: str) -> str:
        return self.ovspane("cluster", "--dir", str(self.member), action, *words)

    def start(self, what: str, *words: str) -> None:
        with (self.folder / f"{what}.log").open("ab") as log:
            self.processes[what] = subprocess.Popen(
                self.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=PROJECT,
                env={**os.environ, "OVS_RUNDIR": str(self.folder)},
            )  # fmt: skip

    def run_member(self) -> None:
        self.start("member", *COMMAND, "cluster", "--dir", str(self.member), "run")
        wait_for(self.joined, f"member on {self.name}")

    def status(self) -> str:
        done = subprocess.run(
            ["ovs-appctl", "-T", "30", "-t", f"{self.member}/ctl", "cluster/status", "OVSPane"],
            capture_output=True,
            text=True,
        )
        return done.stdout if done.returncode == 0 else ""

    def joined(self) -> bool:
        status = self.status()
        return "Status: cluster member" in status and "Leader: unknown" not in status

    def leads(self) -> bool:
        return "member" in self.processes and "Role: leader" in self.status()

    def run_daemon(self, members: list[Host]) -> None:
        """Start a daemon and wait until it answers."""
        self.configure(members)
        wait_for(self.answers, f"daemon on {self.name}")

    def configure(self, members: list[Host]) -> None:
        """Start a daemon."""
        kind = "ssl" if self.tls else "tcp"
        db = ",".join(f"{kind}:{host.ip}:6645" for host in members)
        config = self.folder / "ovspane.toml"
        switch = self.ovsdb or f"unix:{self.folder}/no-switch.sock"
        config.write_text(
            f'db = "{db}"\novsdb = "{switch}"\nrundir = "{self.folder if not self.ovsdb else self.rundir}"\n'
            f'socket = "{self.socket}"\nstate_dir = "{self.folder}/state"\nenforcement = '
            f'"best-effort"\n{self.tls}\n{self.more}\n'
        )
        self.start("daemon", *COMMAND, "daemon", "--config", str(config), "--log-level", "info")

    @property
    def rundir(self) -> str:
        return self.ovsdb.removeprefix("unix:").rpartition("/")[0]

    def answers(self) -> bool:
        assert self.processes["daemon"].poll() is None, self.log("daemon")
        with contextlib.suppress(OSError):
            Talk(self.socket).close()
            return True
        return False

    def log(self, what: str) -> str:
        return (self.folder / f"{what}.log").read_text()[-3000:]

    def kill(self, what: str) -> None:
        """SIGKILL. `ip netns exec` and `cluster run` replace themselves, so it is the program's own pid."""
        process = self.processes.pop(what, None)
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def cut_off(self, off: bool) -> None:
        """Drop every packet between this host and the others."""
        run("ip", "link", "set", f"{self.name}-up", "down" if off else "up")

    def talk(self) -> Talk:
        return Talk(self.socket, 60.0)

    def ask(self, text: str) -> str:
        talk = self.talk()
        try:
            return talk.ask(text)
        finally:
            talk.close()

    def requests(self) -> dict[int, str]:
        lines = self.ask("ListRequests.").splitlines()[1:]
        return {int(line.split()[0]): line for line in lines}


@contextlib.contextmanager
def hosts(count: int = 3) -> Iterator[list[Host]]:
    """Namespaces c1 … on one bridge, without anything in them."""
    folder = Path(tempfile.mkdtemp(prefix="ovspane.", dir="/tmp"))
    made = [Host(number, folder / str(number)) for number in range(1, count + 1)]
    run("ip", "link", "add", "cbr", "type", "bridge")
    try:
        run("ip", "link", "set", "cbr", "up")
        for host in made:
            host.folder.mkdir()
            run("ip", "netns", "add", host.name)
            run("ip", "link", "add", f"{host.name}-up", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            run("ip", "link", "set", f"{host.name}-up", "master", "cbr", "up")
            run("ip", "-n", host.name, "address", "add", f"{host.ip}/24", "dev", "eth0")
            run("ip", "-n", host.name, "link", "set", "eth0", "up")
            run("ip", "-n", host.name, "link", "set", "lo", "up")
        yield made
    finally:
        for host in made:
            for what in list(host.processes):
                host.kill(what)
            subprocess.run(["ip", "link", "delete", f"{host.name}-up"], check=False)
            subprocess.run(["ip", "netns", "delete", host.name], check=False)
        run("ip", "link", "delete", "cbr")
        shutil.rmtree(folder, ignore_errors=True)


def form(made: list[Host], kind: str = "tcp", *files: str) -> None:
    first, *others = made
    first.cluster("create", f"{kind}:{first.ip}", "--election-timer", "500", *files)
    first.run_member()
    for other in others:
        other.cluster("join", f"{kind}:{other.ip}", f"{kind}:{first.ip}", *files)
        other.run_member()


@pytest.fixture
def three() -> Iterator[list[Host]]:
    """Three hosts with members and daemons."""
    with hosts() as made:
        form(made)
        for host in made:
            host.run_daemon(made)
        yield made


def leader(made: list[Host]) -> Host:
    wait_for(lambda: any(host.leads() for host in made), "leader")
    return next(host for host in made if host.leads())


def same_everywhere(made: list[Host], seconds: float = PATIENCE) -> dict[int, str]:
    """Wait until all daemons list the same requests; these."""

    def numbers() -> list[set[int]]:
        return [set(host.requests()) for host in made]

    wait_for(lambda: all(one == numbers()[0] for one in numbers()), "one state on all hosts", seconds)
    return made[0].requests()


class Load(threading.Thread):
    """Says statements one after the other on one host; `granted` and `others` are the answers, `times` when OKs
    came."""

    def __init__(self, host: Host, statements: Iterator[str]) -> None:
        super().__init__(daemon=True)
        self.host = host
        self.statements = statements
        self.granted: list[int] = []
        self.others: list[str] = []
        self.times: list[float] = []
        self.ending = threading.Event()

    def run(self) -> None:
        talk = self.host.talk()
        for statement in self.statements:
            if self.ending.is_set():
                break
            answer = talk.ask(statement)
            found = _ID.match(answer)
            if found:
                self.granted.append(int(found[1]))
                self.times.append(time.monotonic())
            else:
                self.others.append(answer)
        talk.close()


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
    short = int(_ID.match(three[0].ask("reserve(dstPort=80) = 2Mb on a to +6s."))[1])  # type: ignore[index]
    same_everywhere(three)
    away = leader(three)  # the hardest case: its own member leads
    others = [host for host in three if host is not away]
    away.cut_off(True)
    answer = away.ask("reserve(dstPort=81) = 2Mb on a to +1h.")
    assert answer.startswith(("NO not stored, nothing changed: ", "NO it is not known whether this was stored")), answer
    answer = away.ask("reserve(dstPort=81) = 2Mb on a to +1h.")
    assert answer.startswith("NO not stored, nothing changed: no leader among "), answer
    long = int(_ID.match(others[0].ask("reserve(dstPort=82) = 2Mb on a to +1h."))[1])  # type: ignore[index]
    wait_for(lambda: short not in away.requests(), "end by its own copy")
    assert time.monotonic() - said > 5
    assert long not in away.requests()
    away.cut_off(False)
    wait_for(lambda: long in away.requests(), "catching up")
    wait_for(lambda: away.ask("reserve(dstPort=83) = 2Mb on a to +1h.").startswith("OK"), "admission again")
    assert others[1].ask("reserve(dstPort=84) = 7Mb on a to +1h.").startswith("NO 7Mb does not fit share a")
    same_everywhere(three)


def test_backup_restore_leave_and_kick(three: list[Host]) -> None:
    first, second, third = three
    assert first.ask("NewShare a for (*) [reserve <= 10Mb] on rootShare.") == "OK"
    before = int(_ID.match(first.ask("reserve(dstPort=80) = 2Mb on a to +1h."))[1])  # type: ignore[index]
    same_everywhere(three)
    file = first.folder / "backup"
    third.cluster("backup", str(file))
    after = int(_ID.match(second.ask("reserve(dstPort=81) = 2Mb on a to +1h."))[1])  # type: ignore[index]
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
