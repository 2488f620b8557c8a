"""Clients that flood, stall, babble and never read: others are answered, memory and the log stay small."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.daemon_bridges import ALICE, TREE, bridge, daemon_on, wait_verdict
from tests.support.daemon_process import DaemonProcess, Talk
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE, wait_for

MB = 1 << 20
#: how many of its own statements' worth of the daemon's work may stand before a normal client's answer
MOST = 200


@pytest.fixture(scope="module")
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


@pytest.fixture
def daemon(switch: DummyOvs) -> Iterator[DaemonProcess]:
    with daemon_on(switch) as process:
        process.do(*TREE)
        yield process


class Normal(threading.Thread):
    """A client that asks and changes all the time; the most that the daemon did before it answered. The control is
    what that is while the client is alone."""

    def __init__(self, daemon: DaemonProcess) -> None:
        super().__init__()
        self.talk = daemon.client()
        self.ending = threading.Event()
        self.daemon = daemon
        self.most = 0.0  # processor seconds of the daemon's loop
        self.control = self._spent(50) / 50
        self.count = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.ending.is_set():
            self.most = max(self.most, self._spent(1))
            self.count += 1

    def _spent(self, times: int) -> float:
        """What the daemon's loop did meanwhile."""
        begun = self.daemon.spent
        for _ in range(times):
            answer = self.talk.ask("deny(user=Alice, dstPort=80) on aAC to +1h.")
            number = answer.removeprefix("OK id=").split(" ")[0]
            for said in (answer, self.talk.ask(f"Cancel {number}.")):
                if not said.startswith("OK"):
                    self.wrong.append(said)
        return self.daemon.spent - begun


@contextlib.contextmanager
def undisturbed(daemon: DaemonProcess, memory: int = 40 * MB, lines: int = 5) -> Iterator[None]:
    """While the body runs a normal client is answered; the daemon grows by less than `memory` and warns at most
    `lines` times."""
    before = daemon.memory
    normal = Normal(daemon)
    normal.start()
    try:
        yield
    finally:
        wait_for(lambda: normal.count > 20 or bool(normal.wrong), "answers for the normal client")
        grown = daemon.memory - before
        normal.ending.set()
        normal.join()
    assert not normal.wrong, normal.wrong[:3]
    print(f"{normal.most * 1000:.0f} ms of work before an answer at most; alone {normal.control * 1000:.1f} ms")
    assert normal.most < MOST * normal.control
    assert grown < memory, f"{grown / MB:.1f} MB"
    warned = sum(daemon.logged("", level) for level in ("WARNING", "ERROR", "CRITICAL"))
    assert warned <= lines, daemon.log
    assert "Traceback" not in daemon.log
    print(f"memory +{grown / MB:.1f} MB, {warned} warnings")


def raw(daemon: DaemonProcess) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(PATIENCE)
    made.connect(str(daemon.socket))
    return made


def test_a_statement_of_65_kib(daemon: DaemonProcess) -> None:
    with undisturbed(daemon):
        talk = daemon.client()
        for _ in range(20):
            talk.send("deny(srcHost={" + ",".join(["10.0.0.1"] * 7395) + "}) on aAC to +1h.\nWhoami.\n")
            assert talk.reply()[0].startswith("ERR ")
            assert talk.reply() == ["OK principal=root"]  # usable afterwards
        talk.send("deny(user=Alice) /*" + "x" * (65 * 1024) + "*/ on aAC.\nWhoami.\n")
        assert talk.reply()[0].startswith("ERR ")
        assert talk.reply() == ["OK principal=root"]


def test_binary_noise(daemon: DaemonProcess) -> None:
    def read_all(noise: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while noise.recv(65536):
                pass

    with undisturbed(daemon):
        for _ in range(5):
            noise = raw(daemon)
            reader = threading.Thread(target=read_all, args=(noise,))
            reader.start()
            noise.sendall(os.urandom(200_000))
            noise.shutdown(socket.SHUT_WR)
            reader.join(PATIENCE)
            assert not reader.is_alive()
            noise.close()


def test_half_a_line_and_silence(daemon: DaemonProcess) -> None:
    with undisturbed(daemon):
        stalled = [raw(daemon) for _ in range(50)]
        for client in stalled:
            client.sendall(b"deny(user=Alice, dstPort=")
    stalled[0].sendall(b"81) on aAC to +1h.\n")  # still a statement when it goes on
    assert stalled[0].recv(1000).startswith(b"OK id=")
    for client in stalled:
        client.close()


def test_a_client_that_never_reads(daemon: DaemonProcess) -> None:
    """It is made to wait: the daemon stops reading from it long before it has sent all that it has."""
    daemon.do(*(f"deny(user=Alice, dstPort={port}, transport=UDP) on aAC to +1h." for port in range(200)))
    with undisturbed(daemon):
        deaf = raw(daemon)
        deaf.settimeout(1.0)  # that it takes nothing for a second is not yet that it waits: a machine may stand still
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 20 * MB:
                sent += deaf.send(b"ListRequests.\n" * 1000)
        assert sent < 2 * MB
    deaf.close()


def test_a_thousand_connections(daemon: DaemonProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    many: list[Talk] = []
    try:
        with undisturbed(daemon, memory=60 * MB):
            for _ in range(1000):
                with contextlib.suppress(ConnectionError):
                    many.append(daemon.client())
            answered = 0
            for talk in many:
                with contextlib.suppress(ConnectionError):
                    answered += talk.ask("Whoami.") == "OK principal=root"
            assert answered >= 900
    finally:
        for talk in many:
            talk.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) < 40, "end of the connections")


def test_a_flood_of_statements(daemon: DaemonProcess, switch: DummyOvs) -> None:
    """Ten thousand bad and good ones pipelined on one connection, while another one is answered; then all is in
    place."""
    with undisturbed(daemon):
        flood = daemon.client()
        text = "deny(user=Nobody) on nowhere.\nwhat is this.\n)(.\nreserve(user=Alice) = 99Gb on aBW.\n" * 2500
        sender = threading.Thread(target=flood.send, args=(text,))
        sender.start()
        kinds = [flood.reply()[0].split(" ")[0] for _ in range(10_000)]
        sender.join()
        assert kinds == ["NO", "ERR", "ERR", "NO"] * 2500
    daemon.do("deny(user=Alice, dstPort=53) on aAC to +1h.")
    wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=53", dropped=True)
