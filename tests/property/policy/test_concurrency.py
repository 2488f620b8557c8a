"""Many daemons on one database, without processes: what passes equals a serial history, and all copies become the same.

Each daemon lives on a host of one network, a line of three with a link twice, and calls its own bridge by its bare
name.

A model of the database (versions, a log of transactions) and of three daemons, which judge on copies of different age.
When a transaction passes, the same statement is judged on the state at that instant of the history: the oracle. Both
must say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code
from ovspane.lang.statements import GiveHint, NewShare, Statement
from ovspane.lang.statements import Grant as Grant_
from ovspane.network.model import Bridge, Origin, Port, PortId
from ovspane.network.topology import Network
from ovspane.placement.link_capacity import LinkCapacity
from ovspane.placement.network_view import snapshot
from ovspane.placement.routing import Routing
from ovspane.policy import concurrency as sharing
from ovspane.policy.concurrency import Footprint, footprint, footprint_of_ends, merged
from ovspane.policy.runtime import Runtime
from ovspane.policy.state import state as state_module
from ovspane.policy.state.authority import Grant
from ovspane.policy.state.changes import Change, Counter, Put, Value
from ovspane.policy.state.shares import Bucket, Hint, Principal, Request, Share

STEPS = 120
M = 1_000_000
HOSTS = ("h0", "h1", "h2")
#: two wires lead from h0 to h1
WIRES = (("h0", "x", "h1", "x"), ("h0", "y", "h1", "y"), ("h1", "z", "h2", "z"))
Key = tuple[str, str]
SHARES = [
    "NewShare a for (*) [reserve <= 10Mb, ratelimit >= 1kb] on rootShare.",
    "NewShare b for (*) [reserve <= 10Mb, reserve >= 2Mb] on rootShare.",
    "NewShare c for (dstPort=80) [reserve <= 6Mb] on b.",
    "NewShare d for (*) [reserve <= 10Mb, reserveTBCapacity = 20Mb, reserveTBFill = 5Mb] on a.",
    "NewShare e for (*) [allow = True] on c.",
]


@pytest.fixture(autouse=True)
def few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that daemons take the same ones."""
    monkeypatch.setattr(state_module, "SLOTS", 40)
    monkeypatch.setattr(state_module, "RESERVED_SLOTS", 5)


def room(here: str = "") -> LinkCapacity:
    """The links' room as the daemon of a host has it; "": as one somewhere else has. Of wires 9 Mb/s may be
    reserved."""
    network = Network()
    for number, host in enumerate(HOSTS):
        away = host != here
        network.see_bridge(
            Bridge(f"{host}/br0", number, host, Origin.SHARED, programmed=True) if away else Bridge("br0", number)
        )
        wires = {end[at + 1] for end in WIRES for at in (0, 2) if end[at] == host}
        for at, name in enumerate(sorted({*wires, "a", "b"}), 1):
            origin = Origin.SHARED if away else Origin.LOCAL
            network.see_port(Port(place(host, name, here), at, speed=(20 if name in "ab" else 12) * M, origin=origin))
    for one, out, other, into in WIRES:
        network.see_link(place(one, out, here), place(other, into, here), "wire", Origin.SHARED, 0)
    for number, host in enumerate(HOSTS):
        for last, name in enumerate("ab"):
            mac = f"02:00:00:00:0{number}:0{last}"
            network.see_host(
                mac, place(host, name, here), 0, addresses=[f"10.0.{number}.{last + 1}"], origin=Origin.SHARED
            )
    made = LinkCapacity(Routing(), host=here)
    made.notify(snapshot(network))
    return made


def place(host: str, port: str, here: str) -> PortId:
    return PortId("br0" if host == here else f"{host}/br0", port)


def key_of(value: Value) -> Key:
    match value:
        case Share(name=name) | Principal(name=name):
            return type(value).__name__, name
        case Grant() as grant:
            return "Grant", " ".join(grant.key)
        case Request(id=number) | Hint(id=number):
            return type(value).__name__, str(number)
        case Bucket(share=name):
            return "Bucket", name
        case Counter():
            return "Counter", ""


@dataclass
class Database:
    """The serial history: its state, versions, and each transaction's rows (None: gone)."""

    state: Runtime = field(default_factory=lambda: Runtime(capacity=room()))
    versions: dict[str, int] = field(default_factory=dict)
    log: list[dict[Key, Value | None]] = field(default_factory=list)
    now: int = 1_000_000

    def passes(self, seen: dict[str, int], mark: Footprint, changes: Iterable[Change]) -> bool:
        current = all(self.versions.get(key, 0) == seen.get(key, 0) for key in mark.reads)
        there = self.state.state
        return current and all(number in there.requests or number in there.hints for number in mark.present)

    def write(self, changes: list[Change], mark: Footprint) -> None:
        rows: dict[Key, Value | None] = {}
        for change in changes:
            value = change.value
            rows[key_of(value)] = value if isinstance(change, Put) else None
            if isinstance(value, Share) and not isinstance(change, Put):
                rows["Bucket", value.name] = None
            if isinstance(change, Put) and isinstance(value, Request) and value.id not in self.state.state.requests:
                others = self.state.state.requests.values()
                taken = [one for one in others if one.slot == value.slot and one.during(value.start, value.end)]
                assert not value.slot or not taken, "a number is one request's at a time"
        self.state.apply(changes)
        self.state.settle(self.now)
        for key in mark.writes:
            self.versions[key] = self.versions.get(key, 0) + 1
        for key in mark.gone:
            self.versions[key] = self.versions.get(key, 0) + 1000
        self.log.append(rows)

    def end(self) -> None:
        over = self.state.overdue(self.now)
        if over:
            self.write(over, footprint_of_ends(over))
        self.state.settle(self.now)


@dataclass
class Daemon:
    """One copy; `position` is how much of the log it has taken."""

    number: int
    runtime: Runtime = field(default_factory=Runtime)
    links: LinkCapacity = field(default_factory=room)
    seen: dict[str, int] = field(default_factory=dict)
    position: int = 0
    pending: tuple[list[tuple[Statement, list[Change]]], Footprint] | None = None
    undo: tuple[list[list[Change]], tuple[int, int]] = ([], (0, 0))

    def __post_init__(self) -> None:
        self.start()
        self.runtime.state.set_id_range(range(1 + 10_000 * self.number, 10_000 * (self.number + 1)))

    def start(self, values: Iterable[Value] = ()) -> None:
        self.links = room(HOSTS[self.number])
        self.runtime = Runtime(list(values), capacity=self.links)

    def take(self, base: Database) -> None:
        rows: dict[Key, Value | None] = {}
        for one in base.log[self.position :]:
            rows.update(one)
        self.position, self.seen = len(base.log), dict(base.versions)
        puts = [value for value in rows.values() if value is not None]
        changes = merged(self.runtime.state, puts, [key for key, value in rows.items() if value is None])
        if changes is None:
            lease = self.runtime.state.lease
            free = self.runtime.state.next_id
            self.start(base.state.state.values())
            self.runtime.state.set_id_range(range(free, lease.stop))
        else:
            self.runtime.apply(changes)
        self.runtime.apply(self.runtime.overdue(base.now))
        self.runtime.settle(base.now)

    def judge(self, statements: Iterable[Statement], now: int) -> None:
        mark, journal = self.runtime.mark(), list[list[Change]]()
        said: list[tuple[Statement, list[Change]]] = []
        reads = Footprint()
        for statement in statements:
            outcome = self.runtime.execute(speaker_of(statement), statement, now)
            changes = list(outcome.changes)
            if outcome.reply.code is not Code.OK or not changes or self.runtime.needs_settling(changes):
                continue
            reads |= footprint(self.runtime.state, changes)
            self.runtime.apply(changes, journal=journal)
            said.append((statement, changes))
        self.pending, self.undo = (said, reads), (journal, mark)

    def commit(self, base: Database) -> bool:
        assert self.pending is not None
        said, reads = self.pending
        self.pending = None
        changes = [change for _, part in said for change in part]
        before = len(base.log)
        if said and base.passes(self.seen, reads, changes):
            for statement, part in said:
                oracle = base.state.execute(speaker_of(statement), statement, base.now)
                assert oracle.reply.code is Code.OK, f"{statement}: {oracle.reply}"
                assert sorted(map(plain, oracle.changes), key=repr) == sorted(map(plain, part), key=repr), statement
                base.write(part, Footprint())
            base.log[before:] = [{key: value for rows in base.log[before:] for key, value in rows.items()}]
            for key in reads.writes:
                base.versions[key] = base.versions.get(key, 0) + 1
            for key in reads.gone:
                base.versions[key] = base.versions.get(key, 0) + 1000
            self.runtime.settle(base.now)
            return True
        self.runtime.undo(*self.undo)
        self.runtime.settle(base.now)
        return False


def plain(change: Change) -> Change:
    """A change without what is each daemon's own choice."""
    value = change.value
    if isinstance(change, Put) and isinstance(value, Request):
        return Put(replace(value, id=0, slot=0))
    return Put(replace(value, id=0)) if isinstance(change, Put) and isinstance(value, Hint) else change


def statement(dice: Random, daemon: Daemon) -> Statement:
    share = dice.choice("aabbbcddde")
    port = 80 if share in "ce" else dice.choice((80, 81))
    partial = dice.choice(("", "", " partial"))
    until = dice.choice(("+2s", "+5s", "+1h"))
    since = dice.choice(("now", "now", "+1s"))
    times = f"on {share} from {since} to {until}"
    numbers = [*daemon.runtime.state.requests, *daemon.runtime.state.hints]
    known = {f"NewShare {name}": text for name, text in zip("abcde", SHARES, strict=True)}
    between = f"srcHost=10.0.{dice.randrange(3)}.1, dstHost=10.0.{dice.randrange(3)}.2"
    match dice.randrange(30):
        case 0 | 1 | 2 | 3 | 4 | 5 | 6:
            # no wire
            near = dice.choice(("", *(f"srcHost=10.0.{host}.1, dstHost=10.0.{host}.2, " for host in (0, 1, 2) * 3)))
            text = f"reserve({near}dstPort={port}) = {dice.choice((1, 2, 3, 5))}Mb{partial} {times}."
        case 7 | 8 | 9 | 10:
            text = f"allow(dstPort={port}){partial} {times}."
        case 11 | 12 | 13 | 14:
            text = f"deny(dstPort={port}){partial} {times}."
        case 15:
            text = f"ratelimit(dstPort={port}) = {dice.choice((1, 4))}Mb on a to {until}."
        case 16:
            text = f"hint(dstPort={port}) = short on {share} to {until}."
        case 17:
            text = f"DropShare {share}."
        case 18 | 19:
            text = dice.choice(list(known.values()))
        case 20:
            text = dice.choice(
                (
                    "AddUser Alice.",
                    "DropUser Alice.",
                    f"Grant {share} to Alice.",
                    f"Revoke {share} from Alice.",
                    f"Revoke {share} from Alice and end.",
                    f"NewShare Alices for (dstPort=80) [] on {share}.",
                    "Grant Alices to Bob.",
                    f"hint(dstPort=80) = long on {share}.",
                )
            )
        case 21 | 22 | 23 | 24 | 25:
            text = f"reserve({between}) = {dice.choice((1, 3, 5, 8))}Mb{partial} on rootShare to {until}."
        case 26:
            text = (
                f"reserve(srcHost=10.0.{dice.randrange(3)}.1) = {dice.choice((1, 3, 15))}Mb{partial} on "
                f"rootShare to {until}."
            )
        case _:
            text = f"Cancel {dice.choice(numbers)}." if numbers else "AddUser Alice."
    return parse(text)


def speaker_of(said: Statement) -> str:
    """Root; but for a share below another one, and what is done with that: so there is something that a revoke ends."""
    alices = (isinstance(said, NewShare) and said.name == "Alices") or (
        isinstance(said, Grant_) and said.share == "Alices"
    )
    return "Alice" if alices or (isinstance(said, GiveHint) and said.items[0].name == "long") else "root"


def view(runtime: Runtime, now: int) -> object:
    state = runtime.state
    buckets = {name: one.level_then(now) for name, one in state.schedules.items()}
    active = dict(runtime.tree.requests)
    return (
        dict(state.shares),
        set(state.grants),
        dict(state.requests),
        dict(state.hints),
        dict(state.principals),
        buckets,
        active,
    )


def play(seed: int) -> tuple[int, int]:
    dice = Random(seed)
    base = Database()
    daemons = [Daemon(number) for number in range(3)]
    passed = lost = 0
    for text in SHARES:
        part = list(base.state.execute("root", parse(text), base.now).changes)
        base.write(part, footprint(base.state.state, part))
    for _ in range(STEPS):
        one = dice.choice(daemons)
        if one.pending is not None:
            if one.commit(base):
                passed += 1
            else:
                lost += 1
        elif dice.random() < 0.3:
            one.take(base)
        elif dice.random() < 0.15 and not any(other.pending for other in daemons):
            base.now += dice.choice((300, 1000, 2500))
            base.end()
            for other in daemons:
                other.take(base) if dice.random() < 0.5 else None
        else:
            one.runtime.apply(one.runtime.overdue(base.now))
            one.runtime.settle(base.now)
            one.judge([statement(dice, one) for _ in range(dice.choice((1, 1, 2, 4)))], base.now)
    for one in daemons:
        if one.pending is not None:
            one.commit(base)
    for one in daemons:
        one.take(base)
        assert view(one.runtime, base.now) == view(base.state, base.now)
        again = Runtime(list(base.state.state.values()), capacity=room())
        again.settle(base.now)
        assert view(one.runtime, base.now) == view(again, base.now)
        assert not one.links.find_unsatisfied(base.now)
    return passed, lost


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_what_passes_is_serial_and_all_copies_agree(seed: int) -> None:
    play(seed)


def test_the_game_has_winners_and_losers() -> None:
    games = [play(seed) for seed in range(20)]
    assert sum(passed for passed, _ in games) > 200
    assert sum(lost for _, lost in games) > 100


@pytest.mark.parametrize(
    "key", ["room:", "slots:", "link:", "loose:", "tight:", sharing.STRUCTURE, sharing.RESTRAINTS, sharing.OPENERS]
)
def test_without_a_key_the_oracle_objects(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Each key of the table is needed: decisions that do not read it are found out."""
    whole = Database.passes

    def careless(self: Database, seen: dict[str, int], mark: Footprint, changes: Iterable[Change]) -> bool:
        return whole(
            self, seen, replace(mark, reads=frozenset(one for one in mark.reads if not one.startswith(key))), changes
        )

    monkeypatch.setattr(Database, "passes", careless)
    with pytest.raises((AssertionError, KeyError)):
        for seed in range(400):
            play(seed)
