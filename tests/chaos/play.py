"""The play: rounds of faults under load, the facts after each, and how long each took to become so."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from tests.chaos import facts
from tests.chaos.damage import ALL
from tests.chaos.faults import Fault
from tests.chaos.machine import Machine
from tests.chaos.storm import Broadcasts, looped
from tests.support.patience import PATIENCE

#: faults during which ovs-vswitchd answers nobody
UNHEARD = ("stop vswitchd", "kill vswitchd", "end vswitchd", "kill ovsdb", "end ovsdb", "stop ovsdb")
#: rounds between two proofs by `ovspane verify`
PROOF = 25
#: seconds beyond which it is noted what had to be waited for
SLOW = 5.0
#: what a log may not have: a defect of ours
DEFECTS = ("Traceback", "defect", "CRITICAL", "failed by a")
#: what Python itself says of a loop that it could not make for want of descriptors; the call has failed, and is told
NOISE = re.compile(r"Exception ignored in: <function BaseEventLoop.__del__.*?has no attribute '_ssock'\n", re.S)


@dataclass(slots=True)
class Report:
    """`recoveries`: seconds until all was right, of rounds with this fault alone, or with `several`. `missed`:
    faults that could not be injected."""

    rounds: int = 0
    statements: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    recoveries: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: list[tuple[int, int, int, int]] = field(default_factory=list)  # round, pid, bytes, descriptors
    proofs: int = 0
    slow: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps({one.name: getattr(self, one.name) for one in fields(self)}))


def chosen(names: Iterable[str], datapath: str) -> list[Fault]:
    """The faults of these names, or all, that a datapath can have."""
    wanted = set(names) or set(ALL)
    if unknown := wanted - set(ALL):
        raise ValueError(f"no such faults: {', '.join(sorted(unknown))}; known: {', '.join(ALL)}")
    return [fault for name, fault in ALL.items() if name in wanted and (datapath == "system" or not fault.kernel)]


@dataclass(slots=True)
class Play:
    """Rounds `first` to `last` of a seed. `patience`: seconds until what is not right yet is called wrong."""

    machine: Machine
    seed: int
    faults: list[Fault]
    report: Report = field(default_factory=Report)
    patience: float = PATIENCE
    say: Callable[[str], None] = print
    _read: int = 0
    _broadcasts: Broadcasts | None = None

    def begin(self) -> None:
        """Requests to begin with, and all as it should be before the first fault."""
        for client in self.machine.clients:
            client.go_on()
        time.sleep(1)
        if self.machine.layout == "ring":
            self._broadcasts = Broadcasts(self.machine)
        self._settle("begin", random.Random(self.seed))

    def round(self, number: int) -> None:
        """One round: faults, some time, their end, the facts."""
        dice = random.Random(f"{self.seed}/{number}")
        count = min(dice.choice((1, 1, 1, 1, 2, 3)), len(self.faults))
        several = sorted(dice.sample(self.faults, count), key=lambda fault: fault.order)
        for client in self.machine.clients:
            client.go_on()
        heals: list[tuple[Fault, Callable[[], None]]] = []
        for fault in several:
            try:
                heal = fault.inject(self.machine, dice)
            except RuntimeError:  # a tool that failed: a row or a port was just gone
                self.report.missed[fault.name] += 1
                continue
            if heal is not None:
                heals.append((fault, heal))
            time.sleep(dice.choice((0, 0, dice.uniform(0, 0.1))))
        self._broadcast(several)
        time.sleep(dice.choice((0, dice.uniform(0, 0.2), dice.uniform(0, 0.2), dice.uniform(0, 1))))
        self._heal(heals)
        name = several[0].name if count == 1 else "several"
        self.report.faults.update(fault.name for fault in several)
        self.report.rounds += 1
        names = " + ".join(fault.name for fault in several)
        took = self._settle(f"round {number} ({names})", dice)
        self.report.recoveries[name].append(round(took, 3))
        if number % PROOF == 0:
            self.prove(f"round {number} ({names})")

    def _heal(self, heals: list[tuple[Fault, Callable[[], None]]]) -> None:
        for fault, heal in reversed(heals):
            if fault.order:
                heal()
        self.machine.start_what_is_dead()
        self._broadcast([])
        for fault, heal in heals:
            if not fault.order:
                heal()

    def _broadcast(self, faults: list[Fault]) -> None:
        """A frame to everybody, unless ovs-vswitchd stands still: it would have to be waited for."""
        if self._broadcasts is not None and all(fault.name not in UNHEARD for fault in faults):
            for _ in range(5):
                self._broadcasts.send()

    def _circling(self) -> list[str]:
        """What went in a circle, and whether what is flooded now arrives."""
        if self._broadcasts is None:
            return []
        last = self._broadcasts.send()
        time.sleep(0.02)
        copies = self._broadcasts.copies()
        for one in looped(copies):
            self._wrong("", one)
        lost = [port for port, numbers in copies.items() if port != "br0p1" and not numbers[last]]
        return [f"a broadcast did not come to {lost}"] if lost else []

    def _settle(self, where: str, dice: random.Random) -> float:
        """Wait for the facts; the seconds that it took."""
        began, last = time.monotonic(), "an answer to a client"
        for client in self.machine.clients:
            client.pause()
        while True:
            asked = time.monotonic()
            try:
                found = facts.look(self.machine, dice)
                if not found.not_yet:
                    found.not_yet += self._circling()
            except (RuntimeError, OSError) as problem:  # a tool that failed: the switch is not there yet
                found = facts.Facts(not_yet=[repr(problem)])
            for one in found.wrong:
                self._wrong(where, one)
            if not found.not_yet:
                break
            if asked - began > self.patience:
                for one in found.not_yet[:5]:
                    self._wrong(where, f"not right after {asked - began:.1f} s: {one}")
                break
            last = found.not_yet[0]
            time.sleep(0.02)
        if asked - began > SLOW:
            self.report.slow.append(f"{where}: {asked - began:.1f} s, the last of it for {last}")
        self._read_log(where)
        self._measure()
        return asked - began

    def prove(self, where: str) -> None:
        """Have `ovspane verify` prove the tables."""
        said: list[str] = []
        for _ in range(3):  # what begins or ends meanwhile is no fault
            said = facts.verified(self.machine)
            if not said:
                break
        self.report.proofs += 1
        for one in said:
            self._wrong(where, one)

    def _read_log(self, where: str) -> None:
        with self.machine.daemon.log_file.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._read)
            text = log.read()
            self._read = log.tell()
        text = NOISE.sub("", text)
        if any(word in text for word in DEFECTS):
            self._wrong(where, f"the log tells of a defect:\n{text[-6000:]}")

    def _measure(self) -> None:
        machine = self.machine
        try:
            line = (self.report.rounds, machine.daemon.pid, machine.daemon.memory, machine.descriptors)
        except (OSError, AssertionError):
            return
        self.report.memory.append(line)

    def _wrong(self, where: str, text: str) -> None:
        said = f"seed {self.seed}, {where}: {text}"
        self.report.wrong.append(said)
        self.say(f"WRONG {said}")
