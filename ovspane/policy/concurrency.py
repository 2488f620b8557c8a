"""Many daemons on one database: what a decision depended on, how others' changes are taken in, how one's own are taken
back. Pure.

Why two daemons never both give away the last megabit. Each daemon judges on its copy of the database, which may be a
little old. What a judgement may have read is named by a few keys; each key has a version, a number in the database. The
transaction that makes a judgement durable (a) waits, in the database, that each key that was read still has the version
of the copy, and (b) increments the versions of the keys whose meaning it changes. The database runs transactions one
after the other. So when a transaction passes, everything that was read is at this instant as it was judged: the outcome
is the one of judging right there, and the history of all daemons equals a serial one (optimistic concurrency control,
backward validation). A transaction that does not pass has changed nothing, and its statements are judged again on the
newer copy.

What is left to show is that whoever changes what a key stands for increments it:

=============== ==================================================== ===================================================
key             read by                                              incremented by
=============== ==================================================== ===================================================
structure       everything                                           each change of a share, a grant or a principal
room:SHARE      a reservation, for each share of its chain that      put or drop of a reservation below it (not by its
                limits anything                                      mere end, see below)
link:PORT       a reservation, for each port that is on its way      put or drop of a reservation that has it on its way
loose:BRIDGE    a reservation with a port of the bridge on its way,  put or drop of one that may leave by any port there
                or that may leave by any port there
tight:BRIDGE    a reservation that may leave by any port there       put or drop of one with a port of the bridge there
count:SHARE     a request or hint, for each share of its chain that  put or drop of one below it
                has a quota of which little is left
slots:BLOCK     a reservation or limit, for the block of numbers     put of one that has a number of the block
                that its own is of
restraints      allow, reserve (a deny or limit may override them);  put of a deny or a ratelimit; drop of a ratelimit,
                cancelling them                                      and of an allow or a reserve with a deny near
openers         deny (an allow or reserve may open it); cancelling   put of an allow or a reserve; drop of a deny with
                it                                                   an opener near (it may have backed another deny)
hints           what drops whole shares and users                    put of a hint
=============== ==================================================== ===================================================

* The room of a chain is its schedules: a sum over the reservations below each share, so put and drop of a reservation
  are all that changes it. A share without limits refuses nothing (but for the bound of the schedule's numbers, see
  `_rooms`), so it needs no key and the root, which is on every chain, does not make all daemons wait for each other.
* The room of a port (placement.link_capacity) is a ledger of the same kind. Who takes one port and who may take any of
  the bridge meet in the keys loose and tight, so that neither has to name all ports; who only takes ports meets nobody
  on other ports. Where a reservation is given one of several paths, it reads them all. The network itself is no part of
  this: it is as each daemon knows it, and what was decided while it changed is judged again (`troubles` of
  placement.link_capacity).
* Quotas of which much is left are not read: each daemon can accept some before it hears of the others, so together they
  may go beyond a quota by what they accept meanwhile. Quotas protect hosts, they promise nothing to anybody. The
  numbers of shares and grants change with `structure`, and are exact.
* Strictness (policy.admission.strictness) compares a request with overlapping ones. More openers can only help
  an allow or reserve and only hurt a deny; more denies the other way round. So puts increment where they can hurt, and
  drops where the loss of help can hurt. A dropped opener can hurt an allow or reserve only where it opened a deny, so
  where a deny is near it; a dropped deny can hurt another deny only where an opener is near both. Where there is none
  nothing is incremented; that there is none was read too. For a dropped ratelimit a partial reserve may have got less
  than it could have now.
* The end of a request in time changes no answer about any later instant, since decisions are about intervals; so it
  needs no version, and any daemon may delete what is over. The one thing read is the level of token buckets, written
  down when a reservation is forgotten: then room is read and incremented.
* Dropping a share or user ends all that is on it: it reads every key, since each put of a request or hint increments
    one.
* Ids come from leases, blocks that the database gives to one daemon.
* A slot is free for some time or not (policy.state.number_book), and only puts make it less so. Versions are kept of
  blocks of slots, since a daemon gives one after the other, and each at a place of its own.

Times are those of each host's clock (store/skew.py bounds how far these differ): a token bucket is exact up to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ovspane.lang.statements import Kind
from ovspane.policy.state.authority import Grant
from ovspane.policy.state.changes import Change, Counter, Drop, Put, Value
from ovspane.policy.state.shares import Bucket, Hint, Principal, Request, Share
from ovspane.policy.state.state import State

STRUCTURE, RESTRAINTS, OPENERS, HINTS = "structure", "restraints", "openers", "hints"
EVERYTHING = frozenset({STRUCTURE, RESTRAINTS, OPENERS, HINTS})
_OPENING = (Kind.ALLOW, Kind.RESERVE)
#: slots that have one version
BLOCK = 16
#: half of what a schedule can count (_schedule.RATES): from there on every share limits
NEAR_BOUND = 1 << 59


def bridge_of(key: str) -> str:
    """The bridge of a key of the capacity of links; "" for other keys."""
    kind, _, name = key.partition(":")
    return name.partition(":")[0] if kind in ("link", "loose", "tight") else ""


def share_key(share: str) -> str:
    """The key of a share's schedule."""
    return f"room:{share}"


def slot_key(slot: int) -> str:
    """The key of when a slot is whose."""
    return f"slots:{slot // BLOCK}"


def number_key(share: str) -> str:
    """The key of what is counted in a share."""
    return f"count:{share}"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Keys that decisions read and that their changes increment; `gone`: keys that end with their share. `present`:
    requests and hints that must still be there."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    present: frozenset[int] = frozenset()

    def __or__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.reads | other.reads, self.writes | other.writes, self.gone | other.gone, self.present | other.present
        )


def footprint(state: State, changes: Iterable[Change]) -> Footprint:
    """Of one statement's changes, judged on `state`, before they are applied."""
    changes = tuple(changes)
    reads, writes, gone, present = {STRUCTURE}, set[str](), set[str](), set[int]()
    dropped = {change.value.name for change in changes if isinstance(change, Drop) and isinstance(change.value, Share)}
    for change in changes:
        put = isinstance(change, Put)
        match change.value:
            case Share() as share:
                writes.add(STRUCTURE)
                if not put:
                    reads |= EVERYTHING
                    gone |= {share_key(share.name), number_key(share.name)}
            case Grant():
                writes.add(STRUCTURE)
                if not put:  # the reply counts what goes on without it, or that ends with it
                    reads |= EVERYTHING
            case Principal():
                writes.add(STRUCTURE)
                reads |= EVERYTHING
            case Bucket(share=name):
                reads.add(share_key(name))
                writes.add(share_key(name))
            case Hint() as hint:
                numbers = set(_numbers(state, hint.share))
                reads |= numbers
                writes |= numbers
                if put:
                    writes.add(HINTS)
                else:
                    present.add(hint.id)
            case Request() as request:
                if not put:
                    present.add(request.id)
                read, write = _of_request(state, request, put)
                reads |= read
                writes |= write
            case _:
                pass
    left = {key for name in dropped for key in (share_key(name), number_key(name))}
    return Footprint(frozenset(reads), frozenset(writes - left), frozenset(gone), frozenset(present))


def footprint_of_moves(changes: Iterable[Change]) -> Footprint:
    """Of changes that write down the ways that the network gave to reservations (`Runtime.strayed`): they must still
    be there."""
    return Footprint(present=frozenset(change.value.id for change in changes if isinstance(change.value, Request)))


def footprint_of_ends(changes: Iterable[Change]) -> Footprint:
    """Of changes that time alone makes (`Runtime.overdue`)."""
    rooms = frozenset(share_key(change.value.share) for change in changes if isinstance(change.value, Bucket))
    return Footprint(rooms, rooms)


def _of_request(state: State, request: Request, put: bool) -> tuple[set[str], set[str]]:
    reads, writes = set(_numbers(state, request.share)), set(_numbers(state, request.share))
    if request.kind is Kind.RESERVE:
        rooms = set(_rooms(state, request))
        taken, changed = state.keys(request)
        reads |= rooms | taken
        writes |= rooms | changed
    opening = request.kind in _OPENING
    if put:
        if request.slot:
            reads.add(slot_key(request.slot))
            writes.add(slot_key(request.slot))
        if request.kind is not Kind.RATELIMIT:
            reads.add(RESTRAINTS if opening else OPENERS)
        writes.add(OPENERS if opening else RESTRAINTS)
    elif request.kind is Kind.RATELIMIT:
        writes.add(RESTRAINTS)
    elif opening or request.kind is Kind.DENY:
        # What it may have helped to be strict: an allow or reserve, to get through a deny; a deny, where an opener is.
        key, others = (RESTRAINTS, (Kind.DENY,)) if opening else (OPENERS, _OPENING)
        reads.add(key)
        if any(state.index.overlapping(request.flowgroup, state.locations, others)):
            writes.add(key)
    return reads, writes


def _rooms(state: State, request: Request) -> Iterator[str]:
    """The keys of the chain's shares that may refuse a reservation. Near the bound of what can be counted, all may."""
    bound = state.booked + request.rate > NEAR_BOUND
    for name in state.chain(request.share):
        if bound or state.schedules[name].limits:
            yield share_key(name)


def _numbers(state: State, share: str) -> Iterator[str]:
    """The keys of the chain's shares that may refuse one more."""
    return (number_key(name) for name in state.chain(share) if state.census[name].tight)


def inverse(state: State, change: Change) -> list[Change]:
    """What takes a change back that is about to be applied to `state`."""
    match change.value:
        case Request() | Hint() as value:
            known: Value | None = (state.requests if isinstance(value, Request) else state.hints).get(value.id)
        case Principal() as value:
            known = state.principals.get(value.name)
        case Grant() as value:
            known = state.grants.get(value.key)
        case Share() as value:
            known = state.shares.get(value.name)
            if known is not None and isinstance(change, Drop):
                schedule = state.schedules[value.name]
                return [Put(known), Put(Bucket(value.name, schedule.level, schedule.level_at))]
        case _:
            return []  # a fold says the same of every later instant; ids are reset by their own means
    if known is not None:
        return [Put(known)]
    return [Drop(value)] if isinstance(change, Put) else []


def merged(state: State, puts: Iterable[Value], gone: Iterable[tuple[str, str]]) -> list[Change] | None:
    """The changes that bring `state` to what the database has now: rows `puts`, and keys (table, key) that are
    `gone`, in an order in which they can be applied; what the state has already is left out. None: not by changes,
    load everything anew."""
    by_type: dict[type, list[Value]] = {}
    for value in puts:
        by_type.setdefault(type(value), []).append(value)
    lost: dict[str, list[str]] = {}
    for table, key in gone:
        lost.setdefault(table, []).append(key)
    shares = [value for value in by_type.get(Share, ()) if isinstance(value, Share)]
    ended = [Drop(state.requests[number]) for number in map(int, lost.get("Request", ())) if number in state.requests]
    ended += [Drop(state.hints[number]) for number in map(int, lost.get("Hint", ())) if number in state.hints]
    granted = [value for value in by_type.get(Grant, ()) if isinstance(value, Grant)]
    taken = [state.grants.get(_grant_key(key)) for key in lost.get("Grant", ())]
    fresh = _grown(state, shares)
    untaken = {grant for name in lost.get("Share", ()) for grant in state.grants.of(name)}.difference(taken)
    fallen = _fallen(state, lost.get("Share", ()), {drop.value.id for drop in ended if isinstance(drop.value, Request)})
    if fresh is None or fallen is None or untaken:
        return None
    changes: list[Change] = [*ended, *(Drop(grant) for grant in taken if grant is not None)]
    changes += (Put(one) for one in by_type.get(Principal, ()) if state.principals.get(getattr(one, "name", "")) != one)
    changes += fresh
    there = (state.shares.keys() | {change.value.name for change in fresh if isinstance(change.value, Share)}) - {
        drop.value.name for drop in fallen if isinstance(drop.value, Share)
    }
    changes += _levels(state, by_type.get(Bucket, ()))
    if any(grant.share not in there for grant in granted):
        return None
    changes += (Put(grant) for grant in granted if state.grants.get(grant.key) != grant)
    for value in (*by_type.get(Request, ()), *by_type.get(Hint, ())):
        assert isinstance(value, Request | Hint)
        known = (state.requests if isinstance(value, Request) else state.hints).get(value.id)
        if known == value:
            continue
        moved = isinstance(known, Request) and isinstance(value, Request) and known.rerouted(value)
        if (known is not None and not moved) or value.share not in there:
            return None  # a request never changes, but for its way: the database was replaced
        changes.append(Put(value))
    changes += (Put(value) for value in by_type.get(Counter, ()))
    changes += fallen
    changes += (Drop(state.principals[name]) for name in lost.get("Principal", ()) if name in state.principals)
    return changes


def _grant_key(text: str) -> tuple[str, str, str]:
    share, principal, granter = text.split(" ")
    return share, principal, granter


def _grown(state: State, shares: Iterable[Share]) -> list[Change] | None:
    """Shares that are new, parents first; None when one that is there became another."""
    changes: list[Change] = []
    below: dict[str | None, list[Share]] = {}
    waiting = 0
    for share in shares:
        known = state.shares.get(share.name)
        if known is None:
            below.setdefault(share.parent, []).append(share)
            waiting += 1
        elif known != share:
            return None
    ready = [share for parent in list(below) if parent in state.shares for share in below.pop(parent)]
    while ready:
        share = ready.pop()
        waiting -= 1
        changes.append(Put(share))
        ready += below.pop(share.name, [])
    return None if waiting else changes


def _fallen(state: State, names: Iterable[str], ended: set[int]) -> list[Change] | None:
    """Drops of the shares, leaves first; None when something would stay on them."""
    falling = {name for name in names if name in state.shares}
    out: list[Change] = []
    for top in [name for name in falling if state.shares[name].parent not in falling]:
        subtree = list(state.subtree(top))
        if not falling.issuperset(subtree) or any(not ended.issuperset(state.by_share[name]) for name in subtree):
            return None
        out += [Drop(state.shares[name]) for name in reversed(subtree)]
    return out


def _levels(state: State, buckets: Iterable[Value]) -> Iterator[Change]:
    """Levels of buckets, but those that the state has from a later instant."""
    for bucket in buckets:
        assert isinstance(bucket, Bucket)
        schedule = state.schedules.get(bucket.share)
        if schedule is None or schedule.level_at <= bucket.at:
            yield Put(bucket)
