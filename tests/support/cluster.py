"""A RAFT cluster of ovsdb-servers on loopback or in namespaces, for the tests and the bench.

Invariant: every server is ended by its own handle.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.patience import PATIENCE, wait_for

SCHEMA = Path(__file__).parents[2] / "ovspane" / "store" / "ovspane.ovsschema"
ELECTION_MS = 500


def run(*command: str, timeout: float = PATIENCE) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


_GIVEN: set[int] = set()


def free_port() -> int:
    """A port that nothing listens at, another one each time: the kernel may say the same twice."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port


def status(folder: Path) -> str:
    """What cluster/status says of the member whose control socket is there; "" when it does not answer."""
    done = subprocess.run(
        ["ovs-appctl", "-T", "30", "-t", f"{folder}/ctl", "cluster/status", "OVSPane"], capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else ""


def joined(folder: Path) -> bool:
    """The member is one of a cluster with a leader."""
    said = status(folder)
    return "Status: cluster member" in said and "Leader: unknown" not in said


def leads(folder: Path) -> bool:
    """The member is the leader."""
    return "Role: leader" in status(folder)


@dataclass(slots=True)
class Member:
    """One server: `folder` has its database, `enter` the command words that run a command where it lives."""

    folder: Path
    host: str = "127.0.0.1"
    raft_port: int = 6644
    port: int = 6645
    enter: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def raft(self) -> str:
        return f"tcp:{self.host}:{self.raft_port}"

    @property
    def remote(self) -> str:
        return f"tcp:{self.host}:{self.port}"

    @property
    def file(self) -> Path:
        return self.folder / "member.db"

    def create(self, contents: Path = SCHEMA, election_ms: int = ELECTION_MS) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        run("ovsdb-tool", f"--election-timer={election_ms}", "create-cluster", str(self.file), str(contents), self.raft)

    def join(self, other: Member) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        run("ovsdb-tool", "join-cluster", str(self.file), "OVSPane", self.raft, other.raft)

    def start(self) -> None:
        with (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [
                    *self.enter,
                    "env",
                    f"OVS_RUNDIR={self.folder}",
                    "ovsdb-server",
                    str(self.file),
                    "--no-chdir",
                    f"--remote=ptcp:{self.port}:{self.host}",
                    f"--unixctl={self.folder}/ctl",
                    "-vconsole:warn",
                    "-vsyslog:off",
                    f"--log-file={self.folder}/log",
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        wait_for(lambda: (self.folder / "ctl").exists(), "control socket")

    def joined(self) -> bool:
        return joined(self.folder)

    def leads(self) -> bool:
        return leads(self.folder)

    def kill(self) -> None:
        """SIGKILL; in a namespace the words of `enter` replace themselves by the server, so it is the server's own
        pid."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None
            (self.folder / "ctl").unlink(missing_ok=True)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


def remotes(members: Sequence[Member]) -> str:
    return ",".join(member.remote for member in members)


def leader_of(members: Sequence[Member]) -> Member:
    wait_for(lambda: any(member.process is not None and member.leads() for member in members), "leader")
    return next(member for member in members if member.process is not None and member.leads())


def form(members: Sequence[Member], contents: Path = SCHEMA, election_ms: int = ELECTION_MS) -> None:
    """Make and start a cluster of these members."""
    first, *others = members
    first.create(contents, election_ms)
    first.start()
    wait_for(first.joined, "first member")
    for other in others:
        other.join(first)
        other.start()
        wait_for(other.joined, "member that joined")


@contextlib.contextmanager
def loopback_cluster(folder: Path, count: int = 3, election_ms: int = ELECTION_MS) -> Iterator[list[Member]]:
    """Members on loopback."""
    members = [Member(folder / f"m{n}", raft_port=free_port(), port=free_port()) for n in range(count)]
    try:
        form(members, election_ms=election_ms)
        yield members
    finally:
        for member in members:
            member.kill()
