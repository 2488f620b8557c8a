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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ovspane.openflow import bulk
from ovspane.openflow.bridge_reader import BridgeReader, FlowKey
from ovspane.openflow.bundles import bundle_control, parse_bundle_control
from ovspane.openflow.constants import (
    ADD,
    ALL_TABLES,
    BARRIER_REQUEST,
    BUNDLE_COMMIT,
    BUNDLE_COMMITTED,
    BUNDLE_CONTROL,
    BUNDLE_DISCARD,
    BUNDLE_OPEN,
    DELETE_STRICT,
    METER_ADD,
    METER_MODIFY,
    TO_TABLES,
)
from ovspane.openflow.errors import SwitchError
from ovspane.openflow.flow_mods import delete_by_cookie, flow_mod
from ovspane.openflow.framing import Frame, Request, message
from ovspane.openflow.meters import meter_delete, meter_mod, parse_meter_config
from ovspane.openflow.packet_out import packet_out
from ovspane.openflow.session import RequestRefused, SessionError, VersionError
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

#: Flow-mods in one bundle: COMMIT stalls ovs-vswitchd for 25 ms at this size, for longer above.
BUNDLE_LIMIT = 10_000
_SLICE = 100  # flow-mods encoded before other tasks get their turn


class PushError(SessionError):
    """Nothing of the bundle was installed. `failed` names the flows at fault, as far as the switch or the codec
    named them; `committed` counts the flow-mods of earlier bundles of the same push, which are installed. The session
    goes on."""

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


class _Inexpressible(Exception):
    """Flows of a bundle that cannot be expressed in OpenFlow."""

    def __init__(self, failed: list[tuple[FlowRule, SwitchError | ValueError]]) -> None:
        super().__init__()
        self.failed = failed


def _inexpressible(command: int, bundle: _Bundle) -> list[tuple[FlowRule, SwitchError | ValueError]]:
    failed: list[tuple[FlowRule, SwitchError | ValueError]] = []
    for rule in bundle.rules:
        try:
            flow_mod(command, rule, 0)
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


class BridgeSession(BridgeReader):
    """What ovspane does with a bridge: `async with BridgeSession("RUNDIR/BRIDGE.mgmt") as session` (see
    OpenFlowSession)."""

    _bundle_id = 0  # of the bundle that was opened last

    def _received_unsolicited(self, frame: Frame) -> None:
        if frame.kind != BUNDLE_CONTROL:  # of an opening, for which nobody waits: the barrier tells
            super()._received_unsolicited(frame)

    # --- flows

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

    async def push_each(self, adds: Iterable[FlowRule], deletes: Iterable[FlowRule] = ()) -> None:
        """As `push`, but each flow-mod for itself: what the switch takes is in, whatever it refuses of the others, and
        finding the refused ones costs no more than sending all once. (Of a bundle that fails at COMMIT the switch names
        one.)

        Raises PushError naming the flows at fault, SessionError."""
        failed: list[tuple[FlowRule, SwitchError | ValueError]] = []
        sent = 0
        async with self._operation():
            for bundle in self._bundles(list(adds), list(deletes)):
                unsent, xid = [], bundle.first
                for command, rules in bundle.work:
                    for rule in rules:
                        try:
                            unsent.append(flow_mod(command, rule, xid))
                        except ValueError as problem:
                            failed.append((rule, problem))
                        xid += 1
                for at in range(0, len(unsent), _SLICE):
                    await self._write(unsent[at : at + _SLICE])
                    await asyncio.sleep(0)
                await self._ask(BARRIER_REQUEST)
                failed += self._refused(bundle)
                sent += len(bundle.rules)
        if failed:
            raise PushError(failed, f"{self.mgmt_path.stem}: flows refused", sent - len(failed))

    async def _push_one(self, command: int, rule: FlowRule, xid: int) -> None:
        """One flow-mod and the barrier behind it. Raises PushError, SessionError."""
        try:
            encoded = flow_mod(command, rule, xid)
        except ValueError as problem:
            raise PushError([(rule, problem)], f"{self.mgmt_path.stem}: cannot be expressed in OpenFlow", 0) from None
        await self._ask(BARRIER_REQUEST, after=encoded)
        if (error := self._errors.get(xid)) is not None:
            raise PushError([(rule, error)], f"{self.mgmt_path.stem}: flow refused", 0)

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
            work = [(command, rules) for command, rules in zip((ADD, DELETE_STRICT), few, strict=True) if rules]
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
        except _Inexpressible as problem:
            refused = problem.failed
        finally:
            if undecided:  # also when we are cancelled: then nobody waits for the reply
                kind, body = bundle_control(BUNDLE_DISCARD, bundle.id)
                self._wire.write(message(kind, self._next_xid(), body))
        if undecided:
            await self._ask(BARRIER_REQUEST)
        by_codec = bool(refused) and isinstance(refused[0][1], ValueError)
        text = "cannot be expressed in OpenFlow" if by_codec else "bundle refused" + (f": {reason}" if reason else "")
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
        """Open the bundle and put all messages in, each slice encoded while the switch reads the one before; then
        every error has come. Gives that of the opening, if any. Raises _Inexpressible."""
        opening = self._next_xid()
        kind, body = bundle_control(BUNDLE_OPEN, bundle.id)
        unsent = message(kind, opening, body)
        xid = bundle.first
        slices = [
            (command, rules[at : at + _SLICE]) for command, rules in bundle.work for at in range(0, len(rules), _SLICE)
        ]
        for number, (command, few) in enumerate(slices, 1):
            try:
                messages = bulk.bundle_adds(command, few, bundle.id, xid)
            except ValueError:
                await self._write([unsent])  # that the switch has it open is what the caller assumes
                raise _Inexpressible(_inexpressible(command, bundle)) from None
            unsent += messages
            if number < len(slices):
                await self._write([unsent])
                unsent = b""
                await asyncio.sleep(0)
            xid += len(few)
        await self._ask(BARRIER_REQUEST, after=unsent)
        return self._errors.get(opening)

    async def _commit(self, bundle: _Bundle) -> SwitchError | None:
        try:
            reply = await self._ask(*bundle_control(BUNDLE_COMMIT, bundle.id))
        except RequestRefused as refusal:
            return refusal.error
        if self._parsed(parse_bundle_control, reply[0]) != (bundle.id, BUNDLE_COMMITTED):
            self._wire.end(None)
            raise SessionError(f"{self.mgmt_path}: a commit was answered with another message")
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
            failed = await self._set_meters(wanted, delete, there if there is not None else await self._meters_there())
            if there is not None and failed:  # somebody else may have made or deleted them
                again = {number: wanted[number] for number in failed if number in wanted}
                self._errors.clear()
                failed = await self._set_meters(again, failed.keys() - wanted.keys(), await self._meters_there())
            if failed:
                raise MeterError(failed)

    async def _meters_there(self) -> Collection[int]:
        return self._parsed(parse_meter_config, await self._meter_config())

    async def _set_meters(
        self, wanted: Mapping[int, Meter], delete: Iterable[int], there: Collection[int]
    ) -> dict[int, SwitchError | ValueError]:
        """Those that were refused."""
        sent: dict[int, int] = {}
        failed: dict[int, SwitchError | ValueError] = {}
        unsent: list[bytes] = []

        def add(number: int, request: Request) -> None:
            xid = self._next_xid()
            sent[xid] = number
            unsent.append(message(request[0], xid, request[1]))

        for number, meter in wanted.items():
            try:
                add(number, meter_mod(METER_MODIFY if number in there else METER_ADD, meter))
            except ValueError as problem:
                failed[number] = problem
        for number in delete:
            add(number, meter_delete(number))
        await self._write(unsent[:-1])
        await self._ask(BARRIER_REQUEST, after=b"".join(unsent[-1:]))
        return failed | {sent[xid]: error for xid, error in self._errors.items() if xid in sent}

    async def packet_out(self, packet: bytes, in_port: int, out_port: int = TO_TABLES) -> None:
        """Send a frame out of a port, or by default through the tables as if it had come in by `in_port`.

        Raises RequestRefused, SessionError.
        """
        async with self._operation():
            await self._complete([packet_out(packet, in_port, out_port)])

    async def cleanup(self, tables: Iterable[int] = (ALL_TABLES,)) -> None:
        """Delete every flow with our cookie in these tables, and nothing else. Raises RequestRefused, SessionError."""
        async with self._operation():
            await self._complete([delete_by_cookie(COOKIE_TAG, COOKIE_MASK, table) for table in tables])
