"""The faults: what can happen to a process, its clock, its disk, its descriptors, its connections.

Each is injected, stands for some time, and heals. What is done to the switch behind its back: damage.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.chaos.machine import Machine
from tests.support.patience import PATIENCE

#: inject a fault; what it returns heals it (None: nobody has to)
Inject = Callable[[Machine, random.Random], Callable[[], None] | None]
WHO = ("daemon", "store", "vswitchd", "ovsdb")


@dataclass(frozen=True, slots=True)
class Fault:
    """`order`: of several at once those with less are injected first, and heal last: tools need a switch that
    answers. `kernel`: only where the kernel shapes."""

    name: str
    inject: Inject
    order: int = 0
    kernel: bool = False


@dataclass(slots=True)
class Faults:
    """The table of faults, by name."""

    known: dict[str, Fault] = field(default_factory=dict)

    def add(self, name: str, order: int = 0, kernel: bool = False) -> Callable[[Inject], Inject]:
        def keep(inject: Inject) -> Inject:
            self.known[name] = Fault(name, inject, order, kernel)
            return inject

        return keep


def ended(who: str, number: signal.Signals) -> Inject:
    """A process gets a signal that ends it; it is started again when all faults are over (the store by the daemon)."""

    def inject(machine: Machine, dice: random.Random) -> Callable[[], None] | None:
        machine.signal(who, number)
        if who == "store" or who in machine.dead:
            return None
        machine.dead.add(who)

        def heal() -> None:
            if who == "daemon":
                process = machine.daemon.process
                assert process is not None
                status = process.wait(PATIENCE)
                if status not in (0, -9):
                    machine.ledger.wrong.append(f"the daemon ended with {status} on SIGTERM")
            elif who == "vswitchd":
                machine.ovs.stop_vswitchd(kill=True)
            else:
                machine.ovs.stop_server(kill=True)

        return heal

    return inject


def stopped(who: str) -> Inject:
    """A process stands still for a while."""

    def inject(machine: Machine, dice: random.Random) -> Callable[[], None] | None:
        pid = machine.pid(who)
        if pid is None:
            return None
        os.kill(pid, signal.SIGSTOP)

        def heal() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        return heal

    return inject


def starved(who: str) -> Inject:
    """A process gets no descriptor more than it has."""

    def inject(machine: Machine, dice: random.Random) -> Callable[[], None] | None:
        pid = machine.pid(who)
        if pid is None:
            return None
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        top = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(top, before[1]), before[1]))

        def heal() -> None:
            with contextlib.suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

        return heal

    return inject


def disk_full(machine: Machine, dice: random.Random) -> Callable[[], None] | None:
    """ENOSPC for whatever the daemon and its store write."""
    filler = machine.daemon.state_dir / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"\0" * 512)
    return lambda: filler.unlink(missing_ok=True)


def no_large_writes(machine: Machine, dice: random.Random) -> Callable[[], None] | None:
    """The store's files cannot grow (EFBIG, in the middle of a record)."""
    pid = machine.pid("store")
    if pid is None:
        return None
    size = machine.daemon.state_dir.joinpath("ovspane.db").stat().st_size + dice.randrange(400)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))

    def heal() -> None:
        with contextlib.suppress(OSError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    return heal


def clock_step(machine: Machine, dice: random.Random) -> None:
    """Somebody sets the daemon's clock; never far from the real one, so that steps do not add up."""
    machine.clock.set(dice.choice((0.0, dice.uniform(-3, 3), dice.uniform(-600, 600), dice.uniform(-60, 60))))


def _connections(pid: int) -> Iterator[tuple[str, socket.socket]]:
    """A duplicate of each stream of another process, and whom it leads to: pidfd_getfd(2)."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    handle = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    continue
                descriptor = syscall(438, handle, int(name), 0)
                if descriptor >= 0:
                    with socket.socket(fileno=descriptor) as found:
                        yield str(found.getpeername() or found.getsockname()), found
    finally:
        os.close(handle)


def cut(text: str) -> Inject:
    """The daemon's connections to (or from) whoever listens at such a socket are closed."""

    def inject(machine: Machine, dice: random.Random) -> None:
        pid = machine.pid("daemon")
        if pid is not None:
            for name, stream in _connections(pid):
                if name.endswith(text):
                    stream.shutdown(socket.SHUT_RDWR)

    return inject


PROCESSES = Faults()
for _who in WHO:
    PROCESSES.add(f"kill {_who}", 5)(ended(_who, signal.SIGKILL))
    PROCESSES.add(f"end {_who}", 5)(ended(_who, signal.SIGTERM))
    PROCESSES.add(f"stop {_who}", 6)(stopped(_who))
    PROCESSES.add(f"no descriptors for {_who}", 1)(starved(_who))
PROCESSES.add("disk full")(disk_full)
PROCESSES.add("store cannot grow", 1)(no_large_writes)
PROCESSES.add("clock set")(clock_step)  # type: ignore[arg-type]
PROCESSES.add("cut OpenFlow", 3)(cut(".mgmt"))
PROCESSES.add("cut OVSDB", 3)(cut("/db.sock"))
PROCESSES.add("cut store", 3)(cut("-db.sock"))
PROCESSES.add("cut clients", 3)(cut("o.sock"))
