"""Hosts as network namespaces on one bridge, each with its own member of one database and its own daemon.

Each has an `ovspane cluster run` (made by `ovspane cluster create` and `join`). Where a test is about flows, each has
an ovs-vswitchd of its own (dummy datapath), else the daemons serve without a switch.
"""

from __future__ import annotations

import contextlib
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

from tests.support.cluster import joined, leads, run
from tests.support.daemon_process import Talk
from tests.support.patience import PATIENCE, wait_for

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "ovspane.cli.main"]
OK_ID = re.compile(r"OK id=(\d+)")


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

    def joined(self) -> bool:
        return joined(self.member)

    def leads(self) -> bool:
        return "member" in self.processes and leads(self.member)

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
            found = OK_ID.match(answer)
            if found:
                self.granted.append(int(found[1]))
                self.times.append(time.monotonic())
            else:
                self.others.append(answer)
        talk.close()
