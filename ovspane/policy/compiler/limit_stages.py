"""Which stage each limit stands in, so that a packet passes every limit that matches it (docs/design/compiler.md).
Pure; both twins of the compiler ask it.

A flow table sends a packet through one meter at most, so two limits that share a packet stand in different stages, and
the narrower one comes first:

    stage(limit) = 1 + the greatest stage of the narrower limits that share a packet with it, or 0 if there are none

"Narrower" is a strict total order (`_Group.order`): what names more header fields, then what has fewer packets. A limit
whose packets all are another's is narrower than that. So what a limit drops was not counted by a wider one around it.

Stages are a function of the limits that there are, not of how they came: a daemon that starts again finds every flow
where it was. And with fewer limits no stage is greater: what fits together with all fits with any part of them.

Limits on exactly the same packets are one group with one meter, that of the lowest rate: what stays below it stays
below the others. (Of equal ones: the first request's.)

A limit moves when a narrower one comes or goes below it, with the same meter, and within one bundle. Priorities, which
are higher for the narrower, matter only where a delta is too large for one.

Invariants, between calls: as above; `_indexes[n]` has the matches of the groups of stage n, of which no two share a
packet; each group has members.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from ovspane.packets.match import BITS, LAYOUT, Match
from ovspane.packets.overlap import MatchIndex, overlapped

Matches = tuple[Match, ...]
Order = tuple[int, int, int, Matches]

#: the stage of a group that stands nowhere
NOWHERE = -1
#: matches of a limit beyond which moving it is more than what one request costs
FEW = 16


def _fields() -> tuple[int, ...]:
    """The bits of each header field; addresses of either IP version are one field."""
    bits: dict[str, int] = {}
    for name, (shift, width) in LAYOUT.items():
        both = name.replace("ipv6", "ipv4")
        bits[both] = bits.get(both, 0) | (1 << width) - 1 << shift
    return tuple(bits.values())


_FIELDS = _fields()
#: above all that a size's logarithm can be
_SIZES = 2 * BITS


class NewLimit(NamedTuple):
    """A limit that comes. `rate` in bit/s; `matches`: the request's, in any order."""

    request: int
    rate: int
    matches: Matches


class Standing(NamedTuple):
    """Where the rules of a limit stand."""

    stage: int
    priority: int


@dataclass(slots=True, eq=False)
class _Group:
    """The limits on the same packets. `members`: request -> rate; `owner`: the one whose meter they pass."""

    number: int
    matches: Matches
    first: int  # handle; the matches have those that follow
    order: Order
    priority: int
    members: dict[int, int] = field(default_factory=dict)
    owner: int = 0
    stage: int = NOWHERE


def narrowness(matches: Matches) -> Order:
    """Orders limits: the narrower first. The fields are those that any of the matches looks at."""
    mask = size = 0
    for match in matches:
        mask |= match.mask
        size += 1 << BITS - match.mask.bit_count()
    named = sum(1 << number for number, bits in enumerate(_FIELDS) if mask & bits)
    return -named.bit_count(), named, size, matches


class LimitStages:
    """The limits that are active, and the stage of each. A change can be taken back with `undo` until the next one."""

    def __init__(self) -> None:
        self._groups: dict[Matches, _Group] = {}
        self._of: dict[int, _Group] = {}  # by request
        self._by_number: dict[int, _Group] = {}
        self._free: list[int] = []  # numbers of groups that are gone
        self._indexes: list[MatchIndex] = []
        #: matches of all limits that have more than FEW: what a change of one may move beside some small ones
        self.spread = 0
        self._next = 0
        self._moves: list[tuple[_Group, int]] = []  # of the last change: who, from which stage
        self._members: list[tuple[_Group, int, int | None]] = []  # request, its rate before
        self._forgotten: list[_Group] = []
        self._owners: dict[_Group, int] = {}  # of the groups that the last change touched, before it

    @property
    def depth(self) -> int:
        """How many stages are in use."""
        return sum(1 for index in self._indexes if len(index))

    def through(self, request: int) -> int:
        """How many limits stand on each other at most, of which this one is one: what overlaps it, what overlaps that,
        and so on, down and up. 0: it has no packets."""
        group = self._of.get(request)
        if group is None:
            return 0
        heights = {group: 1}
        heap = [(group.order, group.number)]
        while heap:  # the narrowest first: its height is known then
            current = self._by_number[heappop(heap)[1]]
            for stage in range(current.stage + 1, len(self._indexes)):
                for wider in self._near(current, stage):
                    if wider not in heights:
                        heappush(heap, (wider.order, wider.number))
                    heights[wider] = max(heights[current] + 1, heights.get(wider, 0))
        return group.stage + max(heights.values())

    def __contains__(self, request: int) -> bool:
        return request in self._of

    def standing(self, request: int) -> Standing | None:
        """Where the rules of a limit stand; None: it has none, since another on the same packets is lower, or since
        it has no packets."""
        group = self._of.get(request)
        return None if group is None or group.owner != request else Standing(group.stage, group.priority)

    def change(self, gone: Iterable[int], new: Iterable[NewLimit], most: int | None = None) -> set[int] | None:
        """Take limits out, and others in. Returns the requests whose `standing` may have changed.

        None, and nothing has changed, if with these a limit would stand beyond the first `most` stages.
        """
        self._moves, self._members, self._owners, self._forgotten = [], [], {}, []
        for request in gone:
            group = self._of.get(request)
            if group is not None:
                self._set(group, request, None)
        for limit in new:
            if limit.matches:
                self._set(self._group(tuple(sorted(limit.matches))), limit.request, limit.rate)
        self._take_out([group for group in self._owners if not group.members])
        fresh = sorted(
            (group for group in self._owners if group.stage == NOWHERE and group.members), key=lambda group: group.order
        )
        if not all(self._put_in(group, most) for group in fresh):
            self.undo()
            return None
        for group in self._owners:
            self._choose_owner(group)
        changed = {request for group, before in self._owners.items() for request in (before, group.owner)}
        changed.update(group.owner for group, _ in self._moves)
        self._forget_empty()
        return changed

    def undo(self) -> None:
        """Take the last change back."""
        for group in reversed(self._forgotten):
            self._groups[group.matches] = self._by_number[self._free.pop()] = group
            self._count(group.matches, 1)
        for group, stage in reversed(self._moves):
            self._move(group, stage)
        for group, request, before in reversed(self._members):
            self._enter(group, request, before)
        for group in self._owners:
            self._choose_owner(group)
        self._forget_empty()
        self._moves, self._members, self._owners, self._forgotten = [], [], {}, []

    # --- members

    def _group(self, matches: Matches) -> _Group:
        found = self._groups.get(matches)
        if found is None:
            number = self._free.pop() if self._free else len(self._by_number)
            order = narrowness(matches)
            priority = 1 - _SIZES * order[0] + max(0, _SIZES - order[2].bit_length())
            found = self._groups[matches] = self._by_number[number] = _Group(
                number, matches, self._next, order, priority
            )
            self._next += len(matches)
            self._count(matches, 1)
        return found

    def _count(self, matches: Matches, by: int) -> None:
        if len(matches) > FEW:
            self.spread += by * len(matches)

    def _set(self, group: _Group, request: int, rate: int | None) -> None:
        self._owners.setdefault(group, group.owner)
        self._members.append((group, request, group.members.get(request)))
        self._enter(group, request, rate)

    def _enter(self, group: _Group, request: int, rate: int | None) -> None:
        if rate is None:
            del group.members[request]
            if self._of.get(request) is group:
                del self._of[request]
        else:
            group.members[request] = rate
            self._of[request] = group

    def _choose_owner(self, group: _Group) -> None:
        group.owner = min(((rate, request) for request, rate in group.members.items()), default=(0, 0))[1]

    def _forget_empty(self) -> None:
        for group in self._owners:
            if not group.members and self._groups.get(group.matches) is group:
                del self._groups[group.matches], self._by_number[group.number]
                self._free.append(group.number)
                self._count(group.matches, -1)
                self._forgotten.append(group)

    # --- stages

    def _near(self, group: _Group, stage: int) -> list[_Group]:
        """The groups of a stage that share a packet with it."""
        if stage >= len(self._indexes):
            return []
        index, known = self._indexes[stage], self._by_number
        if len(group.matches) == 1:
            return [known[number] for number in index.overlapping_tags(*group.matches[0])]
        numbers = {number for match in group.matches for number in index.overlapping_tags(*match)}
        return [known[number] for number in numbers]

    def _met(self, group: _Group) -> list[int]:
        """The stages that have groups which share a packet with it, the last one first."""
        if len(group.matches) == 1:
            return overlapped(self._indexes, *group.matches[0])[::-1]
        found = {stage for match in group.matches for stage in overlapped(self._indexes, *match)}
        return sorted(found, reverse=True)

    def _below(self, group: _Group, stage: int) -> int:
        """The last stage before that one that has such groups, or -1."""
        for below in reversed(range(stage)):
            index = self._indexes[below]
            if any(index.overlaps_any(*match) for match in group.matches):
                return below
        return -1

    def _move(self, group: _Group, stage: int) -> None:
        if group.stage != NOWHERE:
            index = self._indexes[group.stage]
            for handle in range(group.first, group.first + len(group.matches)):
                index.remove(handle)
        while stage >= len(self._indexes):
            self._indexes.append(MatchIndex())
        if stage != NOWHERE:
            index = self._indexes[stage]
            for handle, match in enumerate(group.matches, group.first):
                index.add(handle, match.value, match.mask, group.number)
        group.stage = stage

    def _note_move(self, group: _Group, stage: int) -> None:
        self._moves.append((group, group.stage))
        self._move(group, stage)

    def _take_out(self, groups: Iterable[_Group]) -> None:
        """The wider ones above may come down. From the lowest stage up: what shares a packet with a group and stands
        below it is narrower, and has its stage for good when the group's turn comes."""
        waiting: dict[int, int] = {}  # number -> stage
        for group in groups:
            if (stage := group.stage) == NOWHERE:
                continue
            self._note_move(group, NOWHERE)
            waiting.pop(group.number, None)
            waiting.update((wider.number, stage + 1) for wider in self._near(group, stage + 1))
        heap = [(stage, number) for number, stage in waiting.items()]
        heapify(heap)
        while heap:
            stage, number = heappop(heap)
            group = self._by_number[number]
            if group.stage != stage:
                continue  # it came down already
            lower = 1 + self._below(group, stage)
            if lower == stage:
                continue
            self._note_move(group, lower)
            for wider in self._near(group, stage + 1):
                heappush(heap, (stage + 1, wider.number))

    def _put_in(self, group: _Group, most: int | None) -> bool:
        """The wider ones may have to go up; False if the stages do not suffice (and some have moved)."""
        stage, wider = 0, []
        for at in self._met(group):
            for other in self._near(group, at):
                if other.order > group.order:
                    wider.append(other)
                elif not stage:
                    stage = at + 1
        wanted = {other: stage + 1 for other in wider if other.stage <= stage}
        heap = [(other.order, other.number) for other in wanted]
        heapify(heap)
        if most is not None and stage >= most:
            return False
        self._note_move(group, stage)
        while heap:  # the narrowest first: those that push it up have their stage for good
            other = self._by_number[heappop(heap)[1]]
            old, stage = other.stage, wanted.pop(other, NOWHERE)
            if stage <= old:
                continue  # it was in the heap twice
            if most is not None and stage >= most:
                return False
            self._note_move(other, stage)
            for at in range(old + 1, stage + 1):
                for above in self._near(other, at):
                    if above.order > other.order and above.stage <= stage:
                        if above not in wanted:
                            heappush(heap, (above.order, above.number))
                        wanted[above] = max(stage + 1, wanted.get(above, NOWHERE))
        return True
