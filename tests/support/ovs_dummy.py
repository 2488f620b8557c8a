"""A private Open vSwitch for tests without root: `DummyOvs`, on the dummy datapath.

    with DummyOvs() as ovs:
        ovs.add_bridge("br0")
        ovs.add_port("br0", "p1", 1)                  # frames in and out over a socket: ovs.stream("p1")
        ovs.add_port("br0", "p2", 2, pcap=True)       # what it sends is kept: ovs.transmitted("p2")
        ovs.ofctl("add-flow", "br0", "in_port=1,actions=output:2")
        assert ovs.drops("br0", "in_port=1,udp") is False
        ovs.restart_vswitchd()

Invariants: all state is in a fresh directory that goes away at the end; the two servers are our own children (never
daemonised), ended by pid in `close()`, which also runs at exit. Several instances may run side by side. The dummy
datapath forwards, meters and traces like the real userspace one, but has no queues: `set_queue` shows only in a trace.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from tests.support.patience import LONG, PATIENCE
from tests.support.patience import wait_for as wait_for  # for the tests of the kernel's tier, too

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
PROTOCOLS = "OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15"


def _answers(path: Path) -> bool:
    """True iff somebody listens on the Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class UnixctlError(Exception):
    """The command was refused; the text is the server's."""


class Unixctl:
    """A persistent connection to a server's control socket: JSON-RPC as `ovs-appctl` speaks it, no fork per call."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))
        self._decoder = json.JSONDecoder()

    def call(self, command: str, *arguments: str) -> str:
        """Run `command`; returns its output. Raises UnixctlError if refused, OSError if the server went away."""
        self._socket.sendall(json.dumps({"id": 0, "method": command, "params": arguments}).encode())
        text = b""
        while True:
            chunk = self._socket.recv(1 << 20)
            if not chunk:
                raise ConnectionResetError("control socket closed")
            text += chunk
            try:
                reply, _ = self._decoder.raw_decode(text.decode())
            except ValueError:  # not complete yet, possibly cut inside a character
                continue
            if reply["error"] is not None:
                raise UnixctlError(reply["error"])
            return str(reply["result"])

    def close(self) -> None:
        self._socket.close()


class StreamPort:
    """The far end of a dummy port: frames with a 16-bit length before each (lib/netdev-dummy.c)."""

    def __init__(self, path: Path) -> None:
        wait_for(lambda: path.exists(), f"port socket {path.name}")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._buffer = b""

    def send(self, frame: bytes) -> None:
        self._socket.sendall(struct.pack("!H", len(frame)) + frame)

    def receive(self, seconds: float = PATIENCE) -> bytes | None:
        """The next frame that the switch sent out of the port, or None if there was none within `seconds`."""
        self._socket.settimeout(seconds)
        while True:
            if len(self._buffer) >= 2:
                end = 2 + int.from_bytes(self._buffer[:2], "big")
                if len(self._buffer) >= end:
                    frame, self._buffer = self._buffer[2:end], self._buffer[end:]
                    return frame
            try:
                chunk = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            if not chunk:
                raise ConnectionResetError("port closed")
            self._buffer += chunk

    def close(self) -> None:
        self._socket.close()


class DummyOvs:
    """One ovsdb-server and one ovs-vswitchd with the dummy datapath, in a directory of their own. `enter`: command
    words that run a command where it is to live (a network namespace); `datapath` netdev: with real devices, as
    root."""

    def __init__(self, enter: Sequence[str] = (), datapath: str = "dummy") -> None:
        self._enter = tuple(enter)
        self._datapath = datapath
        self.rundir = Path(tempfile.mkdtemp(prefix="ovsd.", dir="/tmp"))  # short: a socket's path has at most 107 bytes
        self.environment = dict(os.environ)
        for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"):
            self.environment[name] = str(self.rundir)
        self._server: subprocess.Popen[bytes] | None = None
        self._vswitchd: subprocess.Popen[bytes] | None = None
        self._unixctl: Unixctl | None = None
        self._streams: dict[str, StreamPort] = {}
        atexit.register(self.close)
        try:
            self._start_server()
            self.start_vswitchd()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DummyOvs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- processes

    @property
    def database(self) -> Path:
        """The OVSDB socket: `unix:{database}` for clients."""
        return self.rundir / "db.sock"

    @property
    def vswitchd_pid(self) -> int:
        if self._vswitchd is None:
            raise RuntimeError("ovs-vswitchd is stopped")
        return self._vswitchd.pid

    @property
    def fallen(self) -> list[str]:
        """The servers that ended by themselves."""
        both = {"ovsdb": self._server, "vswitchd": self._vswitchd}
        return [name for name, process in both.items() if process is not None and process.poll() is not None]

    @property
    def server_pid(self) -> int:
        if self._server is None:
            raise RuntimeError("ovsdb-server is stopped")
        return self._server.pid

    def _start_server(self) -> None:
        database = self.rundir / "conf.db"
        if not database.exists():
            self.run("ovsdb-tool", "create", str(database), SCHEMA)
        self._server = self._spawn(
            "ovsdb-server",
            str(database),
            f"--remote=punix:{self.database}",
            f"--unixctl={self.rundir}/ovsdb-server.ctl",
        )
        wait_for(lambda: _answers(self.database), "ovsdb-server")
        self.run("ovs-vsctl", "--no-wait", "init")

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self.rundir / f"{program}.log"
        return subprocess.Popen(
            [*self._enter, program, "-vconsole:off", "-vsyslog:off", *arguments, "--no-chdir", f"--log-file={log}"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
        )

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd and wait until it has configured every bridge of the database."""
        self._vswitchd = self._spawn(
            "ovs-vswitchd",
            f"unix:{self.database}",
            *(
                ("--enable-dummy=override", "--disable-system", "--disable-system-route")
                if self._datapath == "dummy"
                else ()
            ),
            f"--unixctl={self.rundir}/ovs-vswitchd.ctl",
        )
        wait_for(lambda: _answers(self.rundir / "ovs-vswitchd.ctl"), "ovs-vswitchd")
        for bridge in self.run("ovs-vsctl", "--no-wait", "list-br").split():
            wait_for(partial(_answers, self.mgmt(bridge)), f"bridge {bridge}")

    def stop_vswitchd(self, kill: bool = False) -> None:
        """End ovs-vswitchd, gently or with SIGKILL. The database goes on."""
        self.forget_unixctl()
        for port in self._streams.values():
            port.close()
        self._streams.clear()
        self._vswitchd = self._end(self._vswitchd, kill)

    def restart_vswitchd(self, kill: bool = False) -> None:
        """End and start ovs-vswitchd: every flow, meter and connection is gone, the configuration is as before."""
        self.stop_vswitchd(kill)
        self.start_vswitchd()

    def stop_server(self, kill: bool = False) -> None:
        """End ovsdb-server, gently or with SIGKILL. ovs-vswitchd goes on forwarding."""
        self._server = self._end(self._server, kill)

    def start_server(self) -> None:
        """Start ovsdb-server on the database as it is."""
        self._start_server()

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None, kill: bool = False) -> None:
        if process is not None and process.poll() is None:
            (process.kill if kill else process.terminate)()
            try:
                process.wait(30)  # else it is killed, which is no failure
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """End both servers and remove the directory. Safe to call twice."""
        atexit.unregister(self.close)
        self.stop_vswitchd()
        self._server = self._end(self._server)
        shutil.rmtree(self.rundir, ignore_errors=True)

    # --- commands

    def run(self, *command: str) -> str:
        """Run a program against this switch; returns its output. Raises RuntimeError with what it wrote if it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=LONG)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def vsctl(self, *arguments: str) -> str:
        """ovs-vsctl, which waits until vswitchd has done what the database says (at most PATIENCE)."""
        return self.run("ovs-vsctl", f"--timeout={PATIENCE:.0f}", *arguments)

    def ofctl(self, *arguments: str) -> str:
        """ovs-ofctl with OpenFlow 1.4, ports by number."""
        return self.run("ovs-ofctl", "-O", "OpenFlow14", "--no-names", f"--timeout={PATIENCE:.0f}", *arguments)

    def appctl(self, command: str, *arguments: str) -> str:
        """A control command of ovs-vswitchd over the persistent connection (thousands a second)."""
        if self._unixctl is None:
            self._unixctl = Unixctl(self.rundir / "ovs-vswitchd.ctl")
        return self._unixctl.call(command, *arguments)

    def forget_unixctl(self) -> None:
        """Drop the persistent connection: who is at its other end may be gone."""
        if self._unixctl is not None:
            self._unixctl.close()
            self._unixctl = None

    # --- bridges, ports, packets

    def mgmt(self, bridge: str) -> Path:
        """The bridge's OpenFlow socket."""
        return self.rundir / f"{bridge}.mgmt"

    def add_bridge(self, name: str, protocols: str = PROTOCOLS) -> None:
        """A bridge, on the dummy datapath without flows (fail_mode=secure); empty `protocols` leaves Open vSwitch's
        default."""
        mode = "secure" if self._datapath == "dummy" else "standalone"
        settings = [
            f"datapath_type={self._datapath}",
            f"fail_mode={mode}",
            *([f"protocols={protocols}"] if protocols else []),
        ]
        self.vsctl("add-br", name, "--", "set", "bridge", name, *settings)

    def add_port(self, bridge: str, name: str, number: int, pcap: bool = False) -> None:
        """A dummy port of OpenFlow number `number`: with a socket for frames, or (`pcap`) a file of what it sent."""
        option = f"tx_pcap={self.rundir}/{name}.pcap" if pcap else f"pstream=punix:{self.rundir}/{name}.port"
        self.vsctl(
            *("add-port", bridge, name, "--", "set", "interface", name, "type=dummy"),
            *(f"ofport_request={number}", f"options:{option}"),
        )

    def add_device(self, bridge: str, name: str, number: int) -> None:
        """A device of the system as a port."""
        self.vsctl("add-port", bridge, name, "--", "set", "interface", name, f"ofport_request={number}")

    def add_patch(self, bridge: str, name: str, number: int, peer: str) -> None:
        """One end of a patch cable; call it on both bridges, each naming the other's port."""
        settings = ("type=patch", f"options:peer={peer}", f"ofport_request={number}")
        self.vsctl("add-port", bridge, name, "--", "set", "interface", name, *settings)

    def stream(self, port: str) -> StreamPort:
        """The far end of a port, connected on first use."""
        if port not in self._streams:
            self._streams[port] = StreamPort(self.rundir / f"{port}.port")
        return self._streams[port]

    def receive(self, port: str, packet: str | bytes) -> None:
        """Let a frame (bytes, or a datapath flow in text) arrive on the port without a socket."""
        self.appctl("netdev-dummy/receive", port, packet.hex() if isinstance(packet, bytes) else packet)

    def transmitted(self, port: str) -> list[bytes]:
        """All frames that a port made with `pcap` has sent so far."""
        data = (self.rundir / f"{port}.pcap").read_bytes()
        frames, at = [], 24  # file header; then per frame: seconds, microseconds, kept length, length (host order)
        while at + 16 <= len(data):
            (kept,) = struct.unpack_from("=8xI4x", data, at)
            frames.append(data[at + 16 : at + 16 + kept])
            at += 16 + kept
        return frames

    def trace(self, bridge: str, packet: str) -> str:
        """ofproto/trace of a packet, e.g. `in_port=1,udp,nw_src=10.0.0.1,udp_dst=53` (tp_dst is for TCP only)."""
        return self.appctl("ofproto/trace", bridge, packet)

    def actions(self, bridge: str, packet: str) -> str:
        """The datapath actions that a trace ends with, e.g. `drop`, `2` or `set(skb_priority(0x10005)),2`."""
        return self.trace(bridge, packet).rsplit("Datapath actions: ", 1)[1].strip()

    def drops(self, bridge: str, packet: str) -> bool:
        """True iff the packet leaves by no port."""
        return self.actions(bridge, packet) == "drop"
