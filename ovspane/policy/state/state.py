"""The state of the policy: shares, principals, requests and hints by name, with the indexes that admission needs. Pure.

It changes only by `apply`, one `Change` at a time; the same changes in the same order give the same state, so it is a
cache of the database: load the database's values as `Put`s and it is there again. Invariants: each share's parent and
each request's and grant's share exist; schedules hold exactly the reservations of requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ovspane.lang.statements import Kind
from ovspane.lang.units import BitsPerSecond, Ms
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.authority import Grant, Right
from ovspane.policy.state.capacity import NetworkCapacity
from ovspane.policy.state.changes import ROOT_GRANT, Change, Counter, Drop, Put, Registry, Value
from ovspane.policy.state.number_book import NumberBook
from ovspane.policy.state.quotas import DEFAULTS, Census, Quotas
from ovspane.policy.state.request_index import RequestIndex
from ovspane.policy.state.schedule import Chain, Schedule
from ovspane.policy.state.shares import ROOT_SHARE, Bucket, Hint, Principal, Request, Share
from ovspane.policy.state.status import Status

__all__ = ["Change", "Counter", "Drop", "Put", "State", "Value"]

#: queue ids of linux-htb end below 0xf000 (ovs lib/netdev-linux.c, HTB_N_QUEUES); slot 0 means "none"
SLOTS = 0xEFF0
#: of these so many for nobody but the administrator
RESERVED_SLOTS = SLOTS // 8
#: the database's integers end there
LAST_ID = 2**63 - 1


class State(Registry):
    """All that was said and accepted."""

    def __init__(self, capacity: NetworkCapacity | None = None) -> None:
        """`capacity`: what reservations take outside of shares; empty, and this state's alone."""
        super().__init__()
        self._capacity = capacity
        self.requests: dict[int, Request] = {}
        self.hints: dict[int, Hint] = {}
        self.by_share: dict[str, dict[int, Request]] = {}
        self.schedules: dict[str, Schedule] = {}
        self.locations: dict[str, AddressSet] = {}
        self.index = RequestIndex()
        #: how much there is in each share; flows are counted by whoever compiles
        self.census = Census()
        #: the ids that are given to what is said here; where many daemons share a database, each has some of its own
        self.lease = range(1, LAST_ID)
        self.next_id = 1
        #: the sum of all reservations' rates (bit/s)
        self.booked = 0
        #: what the network makes of active requests; not kept in the database
        self.status: dict[int, Status] = {}
        #: what `visibility.known_shares` found, by speaker; gone when shares or grants change
        self.known_shares: dict[str, list[str]] = {}
        #: who has which slot, and when
        self.numbers = NumberBook(SLOTS, RESERVED_SLOTS)
        self.apply(Put(ROOT_SHARE))

    def apply(self, change: Change) -> None:
        """Take a change in. It has to fit: a request's share is there, a share that is dropped is empty. Raises
        ValueError for a reservation that the schedules cannot count (`Schedule.add`)."""
        value = change.value
        put = isinstance(change, Put)
        if isinstance(value, Share | Grant):
            self.known_shares.clear()
        match value:
            case Share():
                (self._put_share if put else self._drop_share)(value)
            case Grant():
                known = self.grants.get(value.key)
                self.census.add(self.chain(value.share), grants=_said(value if put else None) - _said(known))
                (self.grants.put if put else self.grants.drop)(value)
            case Principal():
                (self._put_principal if put else self._drop_principal)(value)
            case Request():
                if value.id in self.requests:
                    self._drop_request(self.requests[value.id])
                if put:
                    self._put_request(value)
            case Hint():
                if put:
                    self.census.add(self.chain(value.share), requests=value.id not in self.hints)
                    self.hints[value.id] = value
                    self._used(value.id)
                else:
                    self.census.add(self.chain(value.share), requests=-1)
                    del self.hints[value.id]
            case Bucket():
                self.schedules[value.share].fold_to(value.level, value.at)
            case Counter():
                self._used(value.next_id - 1)

    def _used(self, number: int) -> None:
        if number in self.lease:
            self.next_id = max(self.next_id, number + 1)

    def set_id_range(self, lease: range) -> None:
        """From now on give these ids only, from the first; slots are looked for at a place that depends on it, so
        that daemons which share a database seldom take the same one."""
        self.lease = lease
        self.next_id = lease.start
        self.numbers.begin_at(lease.start * 40_503)

    def _put_share(self, share: Share) -> None:
        super()._put_share(share)
        if share.name not in self.by_share:
            self.by_share[share.name] = {}
            bounds = share.privileges.quotas
            self.census.begin(
                share.name,
                bounds.filled(DEFAULTS) if share.parent == ROOT else bounds,
                [] if share.parent is None else self.chain(share.parent),
            )
        granted = share.privileges
        if share.name not in self.schedules:
            self.schedules[share.name] = Schedule(
                share.name,
                granted.reserve_max,
                granted.reserve_min,
                granted.tb_capacity,
                granted.tb_fill,
                level_at=share.created,
            )

    def _drop_share(self, share: Share) -> None:
        assert not self.by_share[share.name]
        self.census.end(share.name, [] if share.parent is None else self.chain(share.parent))
        super()._drop_share(share)
        del self.by_share[share.name], self.schedules[share.name]

    def _put_principal(self, principal: Principal) -> None:
        self.principals[principal.name] = principal
        if principal.addresses:
            self.locations[principal.name] = principal.addresses
        else:
            self.locations.pop(principal.name, None)
        self._moved(principal.name)

    def _drop_principal(self, principal: Principal) -> None:
        self.principals.pop(principal.name, None)
        self.locations.pop(principal.name, None)
        self._moved(principal.name)

    def _moved(self, user: str) -> None:
        self.index.move_user(user, self.locations)
        if self._capacity is not None:
            for request in [self.requests[number] for number in self.index.of_user(user)]:
                if request.kind is Kind.RESERVE:
                    self._capacity.put(request, self.locations)

    def _put_request(self, request: Request) -> None:
        self.requests[request.id] = request
        self.by_share[request.share][request.id] = request
        self.index.put(request, self.locations)
        self._used(request.id)
        if request.kind is Kind.RESERVE:
            self.booked += request.rate
            for name in self.chain(request.share):
                self.schedules[name].add(request.start, request.end, request.rate)
            if self._capacity is not None:
                self._capacity.put(request, self.locations)
        self.census.add(self.chain(request.share), requests=1, queues=bool(request.slot))
        if request.slot:
            self.numbers.put(request.slot, request.start, request.end)
            if request.id in self.lease:
                self.numbers.note_last(request.slot)

    def reroute(self, request: Request) -> None:
        """A request that is there was given another way through the network (`Request.rerouted`)."""
        self.requests[request.id] = self.by_share[request.share][request.id] = request
        self.index.put(request, self.locations)
        if self._capacity is not None:
            self._capacity.put(request, self.locations)

    def strayed(self, most: int) -> list[Request]:
        """Requests, `most` at most, as they are on the way through the network that they have now, where that is not
        the one they were given."""
        if self._capacity is None:
            return []
        ways = self._capacity.strayed(most)
        return [replace(self.requests[number], via=via) for number, via in ways.items()]

    def _drop_request(self, request: Request) -> None:
        del self.requests[request.id]
        self.index.drop(request.id)
        self.status.pop(request.id, None)
        del self.by_share[request.share][request.id]
        if request.kind is Kind.RESERVE:
            self.booked -= request.rate
            for name in self.chain(request.share):
                self.schedules[name].remove(request.start, request.end, request.rate)
            if self._capacity is not None:
                self._capacity.drop(request)
        self.census.add(self.chain(request.share), requests=-1, queues=-bool(request.slot))
        if request.slot:
            self.numbers.drop(request.slot, request.start, request.end)

    def chain(self, share: str) -> Iterator[str]:
        """The share and its ancestors, up to the root."""
        name: str | None = share
        while name is not None:
            yield name
            name = self.shares[name].parent

    def quotas(self, share: str) -> Quotas:
        """What bounds a share: its own quotas, and where it has none those of the shares above."""
        out = Quotas()
        for name in self.chain(share):
            out = out.filled(self.census[name].bounds)
        return out

    def ledger(self, share: str) -> Chain:
        """The schedules of shares that a reservation on the share has to fit in."""
        return Chain([self.schedules[name] for name in self.chain(share)])

    def ledgers(self, share: str, group: Flowgroup, rate: BitsPerSecond, start: Ms, end: Ms | None) -> list[Chain]:
        """A reservation of `rate` (bit/s) for these packets has to fit in one of these: the schedules of shares with
        those of a way through the network. If it fits in any for [start, end), then in the first."""
        if self._capacity is None:
            return [self.ledger(share)]
        above = [self.schedules[name] for name in self.chain(share)]
        choices = self._capacity.choices(group, rate, start, end, self.locations)
        return [Chain([*above, *way]) for way in choices]

    def route(self, request: Request) -> str:
        """The way through the network that a reservation gets which was found to fit (`Request.via`)."""
        if self._capacity is None:
            return ""
        return self._capacity.route(request.flowgroup, request.rate, request.start, request.end, self.locations)

    def steered(self, request: Request) -> str:
        """The paths that a reservation's packets are sent along now (`NetworkCapacity.steered`)."""
        return "" if self._capacity is None else self._capacity.steered(request)

    def keys(self, request: Request) -> tuple[set[str], set[str]]:
        """What a reservation that is to come, or to go, reads and changes outside of shares: see
        `NetworkCapacity.keys`."""
        return self._capacity.keys(request, self.locations) if self._capacity is not None else (set(), set())

    def largest(self, share: str, group: Flowgroup, start: Ms, end: Ms | None, at_most: BitsPerSecond) -> BitsPerSecond:
        """The largest rate up to `at_most` (bit/s) that a reservation of these packets may have in [start, end); 0:
        none."""
        rate = at_most
        while True:  # a smaller one may need room on more ports
            found = max(chain.largest(start, end, rate) for chain in self.ledgers(share, group, rate, start, end))
            if found in (0, rate):
                return found
            rate = found

    def folded(self, request: Request, at: Ms) -> list[Bucket]:
        """The shares above a reservation with their buckets' levels at `at`, to be kept before the reservation is
        dropped."""
        out: list[Bucket] = []
        if request.kind is Kind.RESERVE and request.start < at:
            for name in self.chain(request.share):
                schedule = self.schedules[name]
                if schedule.bucket_matters and schedule.level_at < at:
                    out.append(Bucket(name, schedule.level_then(at), at))
        return out

    def values(self) -> Iterator[Value]:
        """Everything, in an order in which a new state can apply it (the root share is always there)."""
        yield Counter(self.next_id)
        yield from self.principals.values()
        for name in self.subtree(ROOT):
            yield self.shares[name]
            yield from (grant for grant in self.grants.of(name) if grant != ROOT_GRANT)
            schedule = self.schedules[name]
            if schedule.level_at > self.shares[name].created:
                yield Bucket(name, schedule.level, schedule.level_at)
        yield from self.requests.values()
        yield from self.hints.values()


def _said(grant: Grant | None) -> int:
    """What a grant counts: that a maker holds its share is none that was said."""
    return int(grant is not None and grant.right is not Right.MADE)
