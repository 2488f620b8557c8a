"""The scene: three hosts on a bridge, somebody else's rules on the same switch, the daemon, and who speaks.

Must be in a sandbox: it takes the names br0, v1 to v3, h1 to h3 and the default paths. The sandbox removes all of it,
whatever happens.

    h1 (Alice, 10.0.0.1) --v1-+
    h2 (server, 10.0.0.2) -v2-+- br0, standalone: a learning switch      v2 sends at most 20 Mbit/s
    h3 (other, 10.0.0.3) --v3-+
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from demo.evidence import BRIDGE, inside, rows, tool, until

FOLDER = Path("/run/ovspane-demo")
CONFIG, LOG, STATE = FOLDER / "ovspane.toml", FOLDER / "daemon.log", FOLDER / "state"
SOCKET = Path("/run/ovspane/ovspane.sock")
#: an account of this kernel that nobody here has
ALICE = 4242
SLOW = 20_000_000  # what v2 sends, in bit/s
HOSTS = {number: f"h{number}" for number in (1, 2, 3)}
OVSPANE = (sys.executable, "-m", "ovspane.cli.main")

KERNEL = os.environ.get("OVSPANE_DATAPATH") == "system"
#: uml or qemu, an emulated machine with a slow processor and coarse timers; host or "" otherwise
GUEST = os.environ.get("OVSPANE_KERNEL", "")


def address(number: int) -> str:
    """The IPv4 address of host `number`."""
    return f"10.0.0.{number}"


def mac(number: int) -> str:
    """The MAC address of host `number`."""
    return f"00:00:00:00:00:0{number}"


def packet(source: int, target: int, fields: str) -> str:
    """A packet from one host to another, for ofproto/trace."""
    return (
        f"in_port={source},dl_src={mac(source)},dl_dst={mac(target)},{fields},"
        f"nw_src={address(source)},nw_dst={address(target)},nw_ttl=64"
    )


# --- the network


def make_network() -> None:
    """The bridge and its hosts. Raises ToolError."""
    kind = "system" if KERNEL else "netdev"
    tool("ovs-vsctl", "--timeout=120", "add-br", BRIDGE, "--",
         "set", "bridge", BRIDGE, f"datapath_type={kind}", "fail_mode=standalone")  # fmt: skip
    for number, host in HOSTS.items():
        device = f"v{number}"
        tool("ip", "netns", "add", host)
        tool("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "address", mac(number), "netns", host)
        for command in ("link set lo up", f"addr add {address(number)}/24 dev eth0", "link set eth0 up"):
            tool("ip", "-n", host, *command.split())
        if not KERNEL:  # the userspace datapath loses the mark that a checksum is still to be made
            tool(*inside(host, "ethtool", "-K", "eth0", "tx", "off"))
        tool("ip", "link", "set", device, "up")
        tool("ovs-vsctl", "--timeout=120", "add-port", BRIDGE, device, "--",
             "set", "interface", device, f"ofport_request={number}")  # fmt: skip
    # ovs-vsctl succeeds also where ovs-vswitchd cannot make a port: read it back.
    for row in rows("interface"):
        if row["error"] or row["ofport"] == -1:
            raise RuntimeError(f"Open vSwitch cannot make {row['name']} on its {kind} datapath: {row['error']}")


def make_foreign() -> list[str]:
    """What somebody else has on the same switch: a flow, a meter, and a QoS row with a queue on v3. What was made,
    in words."""
    flow = "cookie=0xf0e1,priority=7,udp,nw_src=10.0.0.3,tp_dst=9,actions=drop"
    meter = "meter=7,kbps,band=type=drop,rate=5000"
    tool("ovs-ofctl", "-O", "OpenFlow14", "add-flow", BRIDGE, flow)
    tool("ovs-ofctl", "-O", "OpenFlow14", "add-meter", BRIDGE, meter)
    qos = "type=linux-htb other-config:max-rate=900000000 queues:5=@q"
    queue = "other-config:min-rate=1000000"
    tool("ovs-vsctl", "--timeout=120", "set", "port", "v3", "qos=@n", "--",
         "--id=@n", "create", "qos", *qos.split(), "--", "--id=@q", "create", "queue", queue)  # fmt: skip
    return [f"flow   {flow}", f"meter  {meter}", f"qos    on v3: {qos} ({queue})"]


# --- the daemon


def write_config() -> None:
    """The daemon's settings: the speed of the slow port; on the userspace datapath, that nobody enforces queues."""
    FOLDER.mkdir(mode=0o755, exist_ok=True)
    lines = [f'state_dir = "{STATE}"', f'socket = "{SOCKET}"']
    if not KERNEL:
        lines.append('enforcement = "best-effort"')
    CONFIG.write_text("\n".join([*lines, "[ports]", f'v2 = "{SLOW // 1_000_000}Mb"', ""]))


class Daemon:
    """`ovspane daemon` as a process of its own."""

    def __init__(self) -> None:
        with LOG.open("a") as log:
            self._process = subprocess.Popen(
                [*OVSPANE, "daemon", "--config", str(CONFIG)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the shell afterwards is the shell's alone
            )

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self._process.pid

    def answers(self, seconds: float = 120.0) -> bool:
        """Wait until somebody can speak to it; `seconds` only end a hang: a slow machine takes more than 20."""
        return until(lambda: self._process.poll() is not None or speak(0, "Whoami.").startswith("OK"), seconds) and (
            self._process.poll() is None
        )

    def end(self) -> int:
        """Ask it to end (SIGTERM); its exit status. Killed when it takes over 10 s (status -9)."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@contextlib.contextmanager
def daemon() -> Iterator[Daemon]:
    """A daemon while the body runs."""
    running = Daemon()
    try:
        yield running
    finally:
        running.end()


# --- who speaks


def can_be_alice() -> bool:
    """Whether a process here can have Alice's account: in a user namespace that maps one account only, none can."""
    return any(
        int(first) <= ALICE < int(first) + int(count)
        for first, _, count in (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    )


def speak(uid: int, *statements: str) -> str:
    """`ovspane send STATEMENT…` in a process of account `uid`; what it prints.

    The process is a fork and not an exec: .venv may lie where Alice must not read (/root), and the kernel tells the
    daemon the account of the process, whatever it runs.
    """
    from ovspane.cli import main

    main.build_parser("send")  # loads all modules that it needs, before the fork

    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            status = main.main(["send", "--socket", str(SOCKET), *statements])
        except BaseException as problem:  # noqa: BLE001  a fork must not go on as the demo
            print(f"{type(problem).__name__}: {problem}")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


# --- what is left


def processes() -> dict[int, str]:
    """All processes of the sandbox: number -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found[int(entry.name)] = line or "(ended, not yet waited for)"
    return found


def gone(before: dict[int, str], seconds: float = 3.0) -> list[str]:
    """The processes that were not there before and do not end in time."""
    left: list[str] = []
    end = time.monotonic() + seconds
    while True:
        left = [line for number, line in processes().items() if number not in before]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)
