"""The daemon as its users have it, for the tests: a process of its own, and a client that speaks to its socket.

    with DaemonProcess(tmp_path, database, rundir, 'enforcement = "best-effort"') as daemon:
        assert daemon.ask("AddUser Alice.") == "OK"
        daemon.kill()                      # SIGKILL; its private ovsdb-server dies with it
        daemon.start()
        assert daemon.stop() == 0          # SIGTERM; the exit status

Invariants: every process is ended by its own pid; nothing waits without a deadline.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from tests.support.patience import LONG, PATIENCE, wait_for

_COUNT = re.compile(r"OK n=(\d+)")
_PROJECT = Path(__file__).parents[2]
#: where rules stand, for the tests that do not say: the tiers must pass with each placement
PLACEMENT = os.environ.get("PLACEMENT", "")
#: the run directory of a sandbox (lab/sandbox)
LAB = Path("/var/run/openvswitch")


def ovspane(*arguments: str) -> list[str]:
    """The command line of an ovspane command. uid 0 speaks as root, so without root the daemon gets a user namespace
    of its own, in which its user (and that of the tests) is 0."""
    own = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    return [*own, sys.executable, "-m", "ovspane.cli.main", *arguments]


class Talk:
    """One client: statements out, the lines of each reply in."""

    def __init__(self, path: Path, seconds: float = PATIENCE) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        # blocking: with a timeout it would fail when the queue is full (connect(2), EAGAIN)
        self.socket.connect(str(path))
        self.socket.settimeout(seconds)
        self._lines = self.socket.makefile("r", encoding="utf-8", newline="\n")

    def send(self, text: str | bytes) -> None:
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def reply(self) -> list[str]:
        """The next reply's lines. Raises ConnectionResetError at the end of the stream, TimeoutError."""
        first = self._line()
        count = _COUNT.match(first)
        return [first, *(self._line() for _ in range(int(count[1]) if count else 0))]

    def _line(self) -> str:
        line = self._lines.readline()
        if not line.endswith("\n"):
            raise ConnectionResetError("the daemon closed the connection")
        return line[:-1]

    def ask(self, statement: str) -> str:
        """The reply's lines, joined."""
        self.send(statement + "\n")
        return "\n".join(self.reply())

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


class DaemonProcess:
    """One daemon with its state and socket in a folder, on the switch of `database` and `rundir`."""

    def __init__(self, database: str, rundir: Path, settings: str = "", arguments: Iterable[str] = ()) -> None:
        # short: a socket's path has at most 107 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="ovspane.", dir="/tmp"))
        self.socket = self.folder / "o.sock"
        self.state_dir = self.folder / "state"
        self.log_file = self.folder / "log"
        self.config = self.folder / "config.toml"
        if PLACEMENT and "[network]" not in settings:
            settings += f'\n[network]\nplacement = "{PLACEMENT}"'
        self.config.write_text(f'ovsdb = "{database}"\nrundir = "{rundir}"\n{settings}\n', encoding="utf-8")
        self.arguments = list(arguments)
        self.rundir = rundir
        self.process: subprocess.Popen[bytes] | None = None
        self._talk: Talk | None = None

    def __enter__(self) -> DaemonProcess:
        try:
            self.start()
        except BaseException:  # a `with` whose beginning fails has no end: nobody else would end the process
            print(self.log)
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.log)
        self.close()

    def close(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- the process

    def command(self, *more: str) -> list[str]:
        where = ("--socket", str(self.socket), "--state-dir", str(self.state_dir), "--log-level", "debug")
        return ovspane("daemon", "--config", str(self.config), *where, *self.arguments, *more)

    def launch(self) -> None:
        """Start without waiting for anything."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=_PROJECT
            )

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.launch()
        wait_for(self._answers, "answering daemon")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}:\n{self.log}"
        with contextlib.suppress(OSError):
            Talk(self.socket).close()
            return True
        return False

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._hang_up()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self._hang_up()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        self.process = None
        return status

    @property
    def store_pid(self) -> int:
        """The private ovsdb-server's."""
        (only,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(only)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def spent(self) -> float:
        """Processor seconds of its event loop's thread so far: what that did, however busy the machine is (proc(5),
        schedstat)."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another ovspane command with the same configuration; ends it after LONG."""
        command = ovspane(*arguments, "--config", str(self.config))
        return subprocess.run(command, capture_output=True, text=True, timeout=LONG, cwd=_PROJECT)

    def probe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ovspane probe` with the same configuration and socket; ends it after LONG."""
        command = ovspane("probe", *arguments, "--config", str(self.config), "--socket", str(self.socket))
        return subprocess.run(command, capture_output=True, text=True, timeout=LONG, cwd=_PROJECT)

    def check_probes(self) -> None:
        """Probe all: packets at the edges of every verdict have to meet it on every bridge."""
        done = self.probe("--all")
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert "all as expected" in done.stdout

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def logged(self, text: str, level: str = "") -> int:
        """How many lines of the log have `text` (and are of that level)."""
        return sum(text in line and f" {level}" in line for line in self.log.splitlines())

    # --- talking

    def client(self, seconds: float = PATIENCE) -> Talk:
        return Talk(self.socket, seconds)

    def _hang_up(self) -> None:
        if self._talk is not None:
            self._talk.close()
            self._talk = None

    def ask(self, statement: str) -> str:
        """The reply to one statement, of a client that stays connected."""
        if self._talk is None:
            self._talk = self.client()
        return self._talk.ask(statement)

    def do(self, *statements: str) -> None:
        """Say these; each must be answered OK."""
        for statement in statements:
            answer = self.ask(statement)
            assert answer.startswith("OK"), f"{statement} -> {answer}"

    def request(self, statement: str) -> int:
        """Say a request that must be accepted; its id."""
        answer = self.ask(statement)
        found = re.match(r"OK id=(\d+)", answer)
        assert found, f"{statement} -> {answer}"
        return int(found[1])

    def requests(self) -> dict[int, str]:
        """The lines of ListRequests by id, without the id."""
        lines = self.ask("ListRequests.").splitlines()[1:]
        return {int(number): rest for number, rest in (line.split(" ", 1) for line in lines)}

    def settle(self, seconds: float = PATIENCE) -> None:
        """Wait until the switch has what was accepted: no request is pending, and its cached flows obey the tables."""
        wait_for(lambda: not any(r.startswith("pending") for r in self.requests().values()), "end of pending", seconds)
        # one that forwards; a barrier says nothing of the cache (ovs-vswitchd(8), revalidator/wait)
        if Path(self.rundir) == LAB:
            subprocess.run(
                ["ovs-appctl", "-T", f"{PATIENCE:.0f}", "revalidator/wait"], capture_output=True, check=False
            )

    def wait_for_log(self, text: str, count: int = 1, seconds: float = PATIENCE) -> None:
        wait_for(lambda: self.logged(text) >= count, f"log line {text!r}", seconds)
