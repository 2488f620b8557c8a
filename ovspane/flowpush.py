"""The flows and meters of one bridge over a persistent OpenFlow session: read back what is ours, push the difference.

How a push works (OpenFlow 1.4.1 section 7.3.9, and what Open vSwitch 3.1 was seen to do): OPEN, every flow-mod,
BARRIER, and only when no error came back for any of them COMMIT, else DISCARD. Open vSwitch reports a flow-mod that it
cannot stage but commits the rest when asked to, so the barrier between is what makes a bundle all or nothing. A failure
during COMMIT is rolled back by the switch itself. A push of one flow-mod is all or nothing anyway: it goes without a
bundle, in one round trip instead of two.

Invariants:
* only flows with our cookie are read, changed or deleted (but an add replaces any flow of the same table, priority and
  match: our tables and our entry flow have to be ours alone);
* after a SessionError what was under way is unknown: connect again and `sync`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ovspane.openflow import bulk as flowbytes
from ovspane.openflow import flow_monitor as ofwatch
from ovspane.openflow import messages as openflow
from ovspane.openflow.flow_monitor import FlowUpdate
from ovspane.openflow.messages import FlowStats, Frame, MeterFeatures, PortDescription, SwitchError
from ovspane.openflow.session import OpenFlowSession, RequestRefused, SessionError, VersionError
from ovspane.packets.match import ANY, Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, FlowRule, Meter

__all__ = [
    "BUNDLE_LIMIT",
    "BridgeSession",
    "FlowDifference",
    "FlowKey",
    "MeterError",
    "PushError",
    "RequestRefused",
    "SessionError",
    "SyncCounts",
    "VersionError",
    "difference",
]

FlowKey = tuple[int, int, Match]

#: Flow-mods in one bundle: COMMIT stalls ovs-vswitchd for 25 ms at this size, for longer above.
BUNDLE_LIMIT = 10_000
_SLICE = 500  # flow-mods encoded before other tasks get their turn


class PushError(SessionError):
    """Nothing of the bundle was installed. `failed` names the flows at fault, as far as the switch or the codec told;
    `committed` counts the flow-mods of earlier bundles of the same push, which are in. The session goes on."""

    def __init__(
        self, failed: Sequence[tuple[FlowRule, SwitchError | ValueError]], reason: str, committed: int
    ) -> None:
        shown = "; ".join(
            f"table={rule.table},priority={rule.priority},{rule.match}: {error}" for rule, error in failed[:3]
        )
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        super().__init__(f"{reason}: {shown}{more}" if failed else reason)
        self.failed = tuple(failed)
        self.committed = committed


class MeterError(SessionError):
    """Meters that the switch (or the codec) refused, by id; the others are as asked. The session goes on."""

    def __init__(self, failed: Mapping[int, SwitchError | ValueError]) -> None:
        super().__init__("; ".join(f"meter {number}: {error}" for number, error in failed.items()))
        self.failed = dict(failed)


class _Unsayable(Exception):
    """Flows of a bundle that cannot be said in OpenFlow."""

    def __init__(self, failed: list[tuple[FlowRule, SwitchError | ValueError]]) -> None:
        super().__init__()
        self.failed = failed


def _unsayable(command: int, bundle: _Bundle) -> list[tuple[FlowRule, SwitchError | ValueError]]:
    failed: list[tuple[FlowRule, SwitchError | ValueError]] = []
    for rule in bundle.rules:
        try:
            openflow.flow_mod(command, rule, 0)
        except ValueError as problem:
            failed.append((rule, problem))
    return failed


class FlowDifference(NamedTuple):
    """What turns `actual` into `desired`: flows to add (new or changed), to delete, and how many adds are changes."""

    adds: list[FlowRule]
    deletes: list[FlowRule]
    changed: int


def difference(desired: Mapping[FlowKey, FlowRule], actual: Mapping[FlowKey, FlowRule]) -> FlowDifference:
    """The flow-mods that turn `actual` into `desired`; a flow whose instructions or cookie differ is an add."""
    adds = [rule for key, rule in desired.items() if (there := actual.get(key)) is not rule and there != rule]
    deletes = [rule for key, rule in actual.items() if key not in desired]
    return FlowDifference(adds, deletes, sum(rule.key in actual for rule in adds))


class SyncCounts(NamedTuple):
    """What `sync` did, in flows. All but `kept` zero: the bridge had it all."""

    added: int
    changed: int
    deleted: int
    kept: int


class _Bundle(NamedTuple):
    """Flow-mods of one bundle, not encoded yet: the one at `i` has xid `first` + i."""

    id: int
    first: int
    work: list[tuple[int, list[FlowRule]]]  # command, flows

    @property
    def rules(self) -> list[FlowRule]:
        return [rule for _, rules in self.work for rule in rules]


class BridgeSession(OpenFlowSession):
    """What ovspane does with a bridge: `async with BridgeSession("RUNDIR/BRIDGE.mgmt") as session` (see Session)."""

    _on_updates: Callable[[list[FlowUpdate]], None] | None = None

    # --- reading

    async def flow_stats(self) -> list[FlowStats]:
        """Every flow with our cookie and its counters. Raises SessionError."""
        found: list[FlowStats] = []
        async with self._operation():
            for part in await self._ask(*openflow.flow_stats_request()):
                found += self._parsed(openflow.parse_flow_stats, part)
                await asyncio.sleep(0)
        return found

    async def dump(self, expected: Mapping[FlowKey, FlowRule] | None = None) -> dict[FlowKey, FlowRule]:
        """Every flow with our cookie. One that does what we never write has openflow.FOREIGN instructions or an
        OpaqueMatch, so it equals no rule of ours. The `expected` ones are recognised by their bytes, which is 20 times
        as fast. Raises SessionError.
        """
        expected = expected or {}
        async with self._operation():
            known = flowbytes.identities(expected.values())
            found: list[FlowRule] = []
            others: list[bytes] = []
            for part in await self._ask(*openflow.flow_stats_request()):
                rules, rest = self._parsed(partial(flowbytes.recognise, known=known), part)
                found += rules
                others += rest
            if len(found) == len(expected) and not others:
                return dict(expected)
            table = {rule.key: rule for rule in found}
            for start in range(0, len(others), _SLICE):
                for stats in self._parsed(openflow.parse_flow_stats, b"".join(others[start : start + _SLICE])):
                    table[stats.rule.key] = stats.rule
                await asyncio.sleep(0)
            return table

    async def _meter_table(self) -> dict[int, Meter | None]:
        return self._parsed(openflow.parse_meter_config, b"".join(await self._ask(*openflow.meter_config_request())))

    async def raw_meters(self) -> bytes:
        """What `meter_table` makes the values of: equal as long as no meter changes. Raises SessionError."""
        async with self._operation():
            return b"".join(await self._ask(*openflow.meter_config_request()))

    async def meter_table(self) -> dict[int, Meter | None]:
        """Every meter of the bridge by id, whoever made it (meters carry no cookie); None: one that we never make.
        Raises SessionError."""
        async with self._operation():
            return await self._meter_table()

    async def meters(self) -> dict[int, Meter]:
        """The meters of the bridge that look like ours (one drop band, kbit/s with burst). Raises SessionError."""
        return {number: meter for number, meter in (await self.meter_table()).items() if meter is not None}

    async def meter_features(self) -> MeterFeatures:
        """How many meters the bridge takes. Raises SessionError."""
        async with self._operation():
            parts = await self._ask(*openflow.meter_features_request())
            return self._parsed(openflow.parse_meter_features, parts[0])

    async def ports(self) -> list[PortDescription]:
        """The bridge's ports. Raises SessionError."""
        async with self._operation():
            parts = await self._ask(*openflow.port_desc_request())
            return [port for part in parts for port in self._parsed(openflow.parse_port_desc, part)]

    async def flows_in(self, table: int, match: Match = ANY) -> list[FlowRule]:
        """Every flow of the table, whosever it is, whose match is inside `match`. Raises SessionError."""
        async with self._operation():
            parts = await self._ask(*openflow.flow_stats_request(0, 0, table, match))
            return [stats.rule for part in parts for stats in self._parsed(openflow.parse_flow_stats, part)]

    async def table_counts(self) -> dict[int, int]:
        """How many flows each table has, whosever they are; empty tables are left out. Raises SessionError."""
        async with self._operation():
            parts = await self._ask(*ofwatch.table_counts_request())
            return {t: n for part in parts for t, n in self._parsed(ofwatch.parse_table_counts, part).items()}

    async def meter_users(self, meter: int) -> int:
        """How many flows, of whomever, name the meter. Raises RequestRefused (it is not there), SessionError."""
        async with self._operation():
            parts = await self._ask(*ofwatch.meter_users_request(meter))
            return {m: n for part in parts for m, n in self._parsed(ofwatch.parse_meter_users, part).items()}.get(
                meter, 0
            )

    async def watch(self, spots: Iterable[tuple[int, Match]], on_updates: Callable[[list[FlowUpdate]], None]) -> None:
        """Be told, from now on, of changes that others make to flows of these tables inside these matches; our own are
        not told.

        Raises RequestRefused (Open vSwitch before 2.16 has no flow monitor in OpenFlow 1.4), SessionError.
        """
        async with self._operation():
            self._on_updates = on_updates
            await self._ask(*ofwatch.monitor_request(spots))

    def _unasked(self, frame: Frame) -> None:
        if frame.kind == openflow.MULTIPART_REPLY and self._on_updates is not None:
            kind, _, part = openflow.parse_multipart(frame.body)
            if kind == ofwatch.FLOW_MONITOR:
                if updates := ofwatch.parse_updates(part):
                    self._on_updates(updates)
                return
        if frame.kind != openflow.BUNDLE_CONTROL:  # of an opening, for which nobody waits: the barrier tells
            super()._unasked(frame)

    # --- writing

    async def sync(self, desired: Mapping[FlowKey, FlowRule]) -> SyncCounts:
        """Make the flows with our cookie exactly `desired`: read, compare, push only the difference.

        Nobody else may push meanwhile. Raises PushError, SessionError.
        """
        actual = await self.dump(desired)
        adds, deletes, changed = difference(desired, actual)
        await self.push(adds, deletes)
        return SyncCounts(len(adds) - changed, changed, len(deletes), len(desired) - len(adds))

    async def push(self, adds: Iterable[FlowRule], deletes: Iterable[FlowRule] = ()) -> None:
        """Install `adds` (in their order) and remove `deletes`, all or nothing up to BUNDLE_LIMIT flow-mods.

        An add of an existing (table, priority, match) changes that flow and keeps its counters. More flow-mods than the
        limit go in several bundles, every add before the first delete, so nothing is missing in between.
        Raises PushError naming the flows at fault, SessionError; after the latter the outcome is unknown.
        """
        async with self._operation():
            committed = 0
            for bundle in self._bundles(list(adds), list(deletes)):
                if committed or len(bundle.rules) > 1:
                    await self._push_bundle(bundle, committed)
                else:
                    await self._push_one(bundle.work[0][0], bundle.rules[0], bundle.first)
                committed += len(bundle.rules)

    async def _push_one(self, command: int, rule: FlowRule, xid: int) -> None:
        """One flow-mod and the barrier behind it. Raises PushError, SessionError."""
        problem: SwitchError | ValueError | None
        try:
            text = openflow.flow_mod(command, rule, xid)
        except ValueError as unsayable:
            raise PushError([(rule, unsayable)], f"{self.mgmt_path.stem}: cannot be said in OpenFlow", 0) from None
        await self._ask(openflow.BARRIER_REQUEST, after=text)
        if (problem := self._errors.get(xid)) is not None:
            raise PushError([(rule, problem)], f"{self.mgmt_path.stem}: flow refused", 0)

    def _bundles(self, adds: list[FlowRule], deletes: list[FlowRule]) -> Iterator[_Bundle]:
        """Every add before the first delete, BUNDLE_LIMIT in each. Deletes go by ascending priority: the classifier
        of ovs-vswitchd takes quadratic time for the opposite order."""
        if deletes:
            kept = {rule.key for rule in adds}
            deletes = sorted((rule for rule in deletes if rule.key not in kept), key=lambda rule: rule.priority)
        for start in range(0, len(adds) + len(deletes), BUNDLE_LIMIT):
            end = start + BUNDLE_LIMIT
            self._bundle_id = self._bundle_id % 0xFFFFFFF0 + 1
            few = [adds[start:end], deletes[max(0, start - len(adds)) : max(0, end - len(adds))]]
            work = [
                (command, rules)
                for command, rules in zip((openflow.ADD, openflow.DELETE_STRICT), few, strict=True)
                if rules
            ]
            yield _Bundle(self._bundle_id, self._next_xid(len(few[0]) + len(few[1])), work)

    async def _push_bundle(self, bundle: _Bundle, committed: int) -> None:
        undecided = True
        refused: list[tuple[FlowRule, SwitchError | ValueError]] = []
        reason: SwitchError | None = None
        try:
            reason = await self._stage(bundle)
            refused = self._refused(bundle)
            if reason is None and not refused:
                undecided = False
                reason = await self._commit(bundle)
                if reason is None:
                    return
        except _Unsayable as problem:
            refused = problem.failed
        finally:
            if undecided:  # also when we are cancelled: then nobody waits for the reply
                kind, body = openflow.bundle_control(openflow.BUNDLE_DISCARD, bundle.id)
                self._wire.write(openflow.message(kind, self._next_xid(), body))
        if undecided:
            await self._ask(openflow.BARRIER_REQUEST)
        by_codec = bool(refused) and isinstance(refused[0][1], ValueError)
        text = "cannot be said in OpenFlow" if by_codec else "bundle refused" + (f": {reason}" if reason else "")
        raise PushError(refused or self._refused(bundle), f"{self.mgmt_path.stem}: {text}", committed)

    def _refused(self, bundle: _Bundle) -> list[tuple[FlowRule, SwitchError | ValueError]]:
        """The bundle's flows that an error has come for (not those of an earlier bundle that was cancelled)."""
        if not self._errors:
            return []
        rules = bundle.rules
        return [
            (rules[xid - bundle.first], error)
            for xid, error in self._errors.items()
            if 0 <= xid - bundle.first < len(rules)
        ]

    async def _stage(self, bundle: _Bundle) -> SwitchError | None:
        """Open the bundle and put all messages in, each slice encoded while the switch takes the one before; then
        every error has come. Gives that of the opening, if any. Raises _Unsayable."""
        opening = self._next_xid()
        kind, body = openflow.bundle_control(openflow.BUNDLE_OPEN, bundle.id)
        unsent = openflow.message(kind, opening, body)
        xid = bundle.first
        slices = [
            (command, rules[at : at + _SLICE]) for command, rules in bundle.work for at in range(0, len(rules), _SLICE)
        ]
        for number, (command, few) in enumerate(slices, 1):
            try:
                messages = flowbytes.bundle_adds(command, few, bundle.id, xid)
            except ValueError:
                await self._write([unsent])  # that the switch has it open is what the caller assumes
                raise _Unsayable(_unsayable(command, bundle)) from None
            unsent += messages
            if number < len(slices):
                await self._write([unsent])
                unsent = b""
                await asyncio.sleep(0)
            xid += len(few)
        await self._ask(openflow.BARRIER_REQUEST, after=unsent)
        return self._errors.get(opening)

    async def _commit(self, bundle: _Bundle) -> SwitchError | None:
        try:
            reply = await self._ask(*openflow.bundle_control(openflow.BUNDLE_COMMIT, bundle.id))
        except RequestRefused as refusal:
            return refusal.error
        if self._parsed(openflow.parse_bundle_control, reply[0]) != (bundle.id, openflow.BUNDLE_COMMITTED):
            self._wire.end(None)
            raise SessionError(f"{self.mgmt_path}: a commit was answered by something else")
        return None

    async def set_meters(
        self, add_or_modify: Iterable[Meter], delete: Iterable[int] = (), *, there: Collection[int] | None = None
    ) -> None:
        """Make these meters exist with these rates, and those not. `there`: the ids of the meters that the switch has;
        where that is not known, or not so, they are read.

        Meters cannot ride in bundles: set them before the flows that name them (which are refused otherwise), and
        delete them after those flows are gone (the switch deletes flows that still name one).

        Raises MeterError naming the ids that were refused, SessionError.
        """
        async with self._operation():
            wanted = {meter.id: meter for meter in add_or_modify}
            failed = await self._set_meters(wanted, delete, there if there is not None else await self._meter_table())
            if there is not None and failed:  # somebody else may have made or deleted them
                again = {number: wanted[number] for number in failed if number in wanted}
                self._errors.clear()
                failed = await self._set_meters(again, failed.keys() - wanted.keys(), await self._meter_table())
            if failed:
                raise MeterError(failed)

    async def _set_meters(
        self, wanted: Mapping[int, Meter], delete: Iterable[int], there: Collection[int]
    ) -> dict[int, SwitchError | ValueError]:
        """Those that were refused."""
        sent: dict[int, int] = {}
        failed: dict[int, SwitchError | ValueError] = {}
        unsent: list[bytes] = []

        def say(number: int, request: tuple[int, bytes]) -> None:
            xid = self._next_xid()
            sent[xid] = number
            unsent.append(openflow.message(request[0], xid, request[1]))

        for number, meter in wanted.items():
            try:
                say(number, openflow.meter_mod(openflow.METER_MODIFY if number in there else openflow.METER_ADD, meter))
            except ValueError as problem:
                failed[number] = problem
        for number in delete:
            say(number, openflow.meter_delete(number))
        await self._write(unsent[:-1])
        await self._ask(openflow.BARRIER_REQUEST, after=b"".join(unsent[-1:]))
        return failed | {sent[xid]: error for xid, error in self._errors.items() if xid in sent}

    async def packet_out(self, packet: bytes, in_port: int, out_port: int = openflow.TO_TABLES) -> None:
        """Send a frame out of a port, or by default through the tables as if it had come in by `in_port`.

        Raises RequestRefused, SessionError.
        """
        async with self._operation():
            xid = await self._send(*openflow.packet_out(packet, in_port, out_port))
            await self._ask(openflow.BARRIER_REQUEST)
            if xid in self._errors:
                raise RequestRefused(self._errors[xid])

    async def cleanup(self, tables: Iterable[int] = (openflow.ALL_TABLES,)) -> None:
        """Delete every flow with our cookie in these tables, and nothing else. Raises RequestRefused, SessionError."""
        async with self._operation():
            sent = [await self._send(*openflow.delete_by_cookie(COOKIE_TAG, COOKIE_MASK, table)) for table in tables]
            await self._ask(openflow.BARRIER_REQUEST)
            if refused := [self._errors[xid] for xid in sent if xid in self._errors]:
                raise RequestRefused(refused[0])
