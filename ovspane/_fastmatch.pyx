# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The overlap index: which of many ternary matches meet a given one. Compiled; `_fastmatch_py` is its plain twin.

The typed interface is in _fastmatch.pyi.

Quantised tuple space (docs/design/compiler.md): matches are grouped by their mask with prefix lengths floored to a few
levels and other fields floored to all or nothing. All members of a group, and so all that can meet a query, agree with
the query in the bits that the group's mask and the query's floored mask have in common: one look-up in a hash over
those bits (a probe, built when first asked for) gives the candidates, and each is then compared exactly.

Bounds: a query costs at most one pass over all matches, whatever their masks are: groups of up to SMALL members are
passed over in order, and a group has at most PROBES probes. When a query's own probe is not among them, the next best
serves (any subset of the common bits gives all candidates), and only after that has wasted as many comparisons as a
probe costs to build, the least used one gives way. Empty groups are freed, shrunken ones shrink. A query that is
disjoint from the hull of all matches ends at once: that is what indexes of disjoint shares answer most of the time.

Invariants: the slots 0 .. used-1 of a group are dense (a removal moves the last one into the gap); `handles` has the
group and slot of each handle; every probe links every slot of its group; value & ~mask == 0 in each match; `hull`
covers each (it may be wider than need be after removals). The GIL is held throughout: a query may build a probe.

Longer than 400 lines: the index is one class; its parts that stand alone are in the .pxd files beside it.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from ovspane._fastmatch_handles cimport Place, drop_place, place_of, put_place, room_for_one
from ovspane._fastmatch_group cimport (
    PROBES, Group, Probe, drop_probe, free_group, link, probe_for, resize_group, spread, unlink
)
from ovspane._fastmatch_words cimport (
    COVERED, COVERING, NARROW, NIL, OVERLAPPING, WORDS, Relation, checked_handle, checked_tag, floored, hashed, related, resized,
    unpack_match,
)

cdef enum:
    SMALL = 12
    LEAST = 4  # slots of the smallest group
    KEPT = 4096  # results for which the buffer is kept between queries


@cython.final
cdef class MatchIndex:
    """Matches by handle, with the queries. See _fastmatch.pyi."""

    def __cinit__(self):
        self.unused = NIL

    def __init__(self):
        """Takes no arguments (a __cinit__ alone would ignore any)."""

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.live):
            free_group(&self.groups[self.order[i]])
        free(self.groups)
        free(self.order)
        free(self.by_mask)
        free(self.handles.places)
        free(self.found)

    def __len__(self):
        return self.used

    def __contains__(self, handle):
        if not isinstance(handle, int) or not 0 <= handle < 1 << 63:
            return False
        return place_of(&self.handles, handle) != NULL

    def __sizeof__(self):
        cdef size_t size = sizeof(Place) * self.handles.room + 8 * self.found_room + 4 * self.by_mask_room
        cdef Group *group
        cdef uint32_t i, k
        size += (sizeof(Group) + 4) * self.groups_room
        for i in range(self.live):
            group = &self.groups[self.order[i]]
            size += <size_t>group.room * (16 * group.words + 12) + (PROBES * sizeof(Probe) if group.probe != NULL else 0)
            for k in range(group.probes):
                size += <size_t>group.room * 8 + 4 * group.probe[k].room
        return object.__sizeof__(self) + size

    # --- the groups

    cdef inline uint32_t mask_home(self, const uint64_t *mask, uint32_t words) noexcept nogil:
        return <uint32_t>(hashed(mask, mask, WORDS) + words) & (self.by_mask_room - 1)

    cdef uint32_t group_of(self, const uint64_t *mask, uint32_t words) noexcept nogil:
        """The number of the group with this floored mask, or NIL."""
        cdef uint32_t i
        cdef Group *group
        if not self.live:
            return NIL
        i = self.mask_home(mask, words)
        while self.by_mask[i] != NIL:
            group = &self.groups[self.by_mask[i]]
            if group.words == words and memcmp(group.mask, mask, sizeof(group.mask)) == 0:
                return self.by_mask[i]
            i = (i + 1) & (self.by_mask_room - 1)
        return NIL

    cdef void put_group(self, uint32_t number) noexcept nogil:
        cdef uint32_t i = self.mask_home(self.groups[number].mask, self.groups[number].words)
        while self.by_mask[i] != NIL:
            i = (i + 1) & (self.by_mask_room - 1)
        self.by_mask[i] = number

    cdef bint resize_by_mask(self, uint32_t room) noexcept nogil:
        cdef uint32_t *new = <uint32_t *>malloc(room * sizeof(uint32_t))
        cdef uint32_t i
        if new == NULL:
            return False
        memset(new, 0xFF, room * sizeof(uint32_t))
        free(self.by_mask)
        self.by_mask, self.by_mask_room = new, room
        for i in range(self.live):
            self.put_group(self.order[i])
        return True

    cdef uint32_t new_group(self, const uint64_t *mask, uint32_t words) noexcept nogil:
        """NIL if there is no memory."""
        cdef uint32_t number = self.unused, room
        cdef Group *group
        if 2 * (self.live + 1) > self.by_mask_room and not self.resize_by_mask(max(16, 2 * self.by_mask_room)):
            return NIL
        if number == NIL and self.made == self.groups_room:
            room = max(4, 2 * self.groups_room)
            if not resized(<void **>&self.groups, room * sizeof(Group)):
                return NIL
            if not resized(<void **>&self.order, room * sizeof(uint32_t)):
                return NIL
            self.groups_room = room
        if number == NIL:
            number = self.made
            self.made += 1
        else:
            self.unused = self.groups[number].at
        group = &self.groups[number]
        memset(group, 0, sizeof(Group))
        memcpy(group.mask, mask, sizeof(group.mask))
        group.words = words
        group.at = self.live
        self.order[self.live] = number
        self.live += 1
        self.put_group(number)
        return number

    cdef void drop_group(self, uint32_t number) noexcept nogil:
        """Free an empty group."""
        cdef Group *group = &self.groups[number]
        cdef uint32_t i = self.mask_home(group.mask, group.words), gap, home, last
        while self.by_mask[i] != number:
            i = (i + 1) & (self.by_mask_room - 1)
        gap = i
        while True:
            i = (i + 1) & (self.by_mask_room - 1)
            if self.by_mask[i] == NIL:
                break
            home = self.mask_home(self.groups[self.by_mask[i]].mask, self.groups[self.by_mask[i]].words)
            if (i - home) & (self.by_mask_room - 1) >= (i - gap) & (self.by_mask_room - 1):
                self.by_mask[gap] = self.by_mask[i]
                gap = i
        self.by_mask[gap] = NIL
        self.live -= 1
        last = self.order[self.live]
        self.order[group.at] = last
        self.groups[last].at = group.at
        free_group(group)
        group.at = self.unused
        self.unused = number

    cdef void promote(self, Group *group) noexcept nogil:
        """One step to the front: what answered will answer again (existence queries end at the first)."""
        cdef uint32_t at = group.at, other
        if at:
            other = self.order[at - 1]
            self.order[at] = other
            self.groups[other].at = at
            self.order[at - 1] = <uint32_t>(group - self.groups)
            group.at = at - 1

    # --- additions and removals

    def add(self, handle, value, mask, tag=0):
        cdef uint64_t match[2 * WORDS]
        cdef int64_t number = checked_handle(handle)
        cdef uint32_t label = checked_tag(tag)
        if place_of(&self.handles, number) != NULL:
            raise ValueError(f"handle {handle} is in the index already")
        unpack_match(value, mask, match)
        if not self.insert(number, match, label):
            raise MemoryError()

    cdef bint insert(self, int64_t handle, const uint64_t *match, uint32_t tag) noexcept nogil:
        """False if there is no memory; then the index is as it was."""
        cdef uint64_t mask[WORDS]
        cdef uint32_t words = NARROW, number, slot, i
        cdef Group *group
        cdef uint64_t *stored
        for i in range(NARROW, WORDS):
            if match[WORDS + i]:
                words = WORDS
        floored(match + WORDS, mask)
        if not room_for_one(&self.handles):
            return False
        number = self.group_of(mask, words)
        if number == NIL:
            number = self.new_group(mask, words)
            if number == NIL:
                return False
        group = &self.groups[number]
        if group.used == group.room and not resize_group(group, max(LEAST, 2 * group.room)):
            if not group.used:
                self.drop_group(number)
            return False
        slot = group.used
        stored = group.match + <size_t>slot * 2 * words
        memcpy(stored, match, words * sizeof(uint64_t))
        memcpy(stored + words, match + WORDS, words * sizeof(uint64_t))
        group.handle[slot], group.tag[slot] = handle, tag
        group.used += 1
        for i in range(group.probes):
            # without memory for more buckets the chains grow longer, nothing else
            if group.used <= group.probe[i].room or not spread(group, &group.probe[i]):
                link(group, &group.probe[i], slot)
        put_place(&self.handles, handle, number, slot)
        if not self.used:
            memcpy(self.hull, match, sizeof(self.hull))
        for i in range(WORDS):
            self.hull[WORDS + i] &= match[WORDS + i] & ~(match[i] ^ self.hull[i])
            self.hull[i] &= self.hull[WORDS + i]
        self.used += 1
        return True

    def remove(self, handle):
        cdef Place *place = NULL
        if isinstance(handle, int) and 0 <= handle < 1 << 63:
            place = place_of(&self.handles, handle)
        if place == NULL:
            raise KeyError(handle)
        self.delete(place)

    cdef void delete(self, Place *place) noexcept nogil:
        cdef uint32_t number = place.group, slot = place.slot, last, i
        cdef Group *group = &self.groups[number]
        cdef size_t record = 2 * group.words
        drop_place(&self.handles, place)
        self.used -= 1
        last = group.used - 1
        for i in range(group.probes):
            unlink(group, &group.probe[i], slot)
            if slot != last:
                unlink(group, &group.probe[i], last)
        if slot != last:
            memcpy(group.match + slot * record, group.match + last * record, record * sizeof(uint64_t))
            group.handle[slot], group.tag[slot] = group.handle[last], group.tag[last]
            place_of(&self.handles, group.handle[slot]).slot = slot
            for i in range(group.probes):
                link(group, &group.probe[i], slot)
        group.used = last
        if not last:
            self.drop_group(number)
        elif group.room > 4 * LEAST and 4 * last < group.room:
            resize_group(group, group.room // 2)  # if it cannot shrink it stays
        if not self.live:
            free(self.groups)
            free(self.order)
            free(self.by_mask)
            self.groups, self.order, self.by_mask = NULL, NULL, NULL
            self.made = self.groups_room = self.by_mask_room = 0
            self.unused = NIL

    def retag(self, handle, tag):
        cdef uint32_t label = checked_tag(tag)
        cdef Place *place = NULL
        if isinstance(handle, int) and 0 <= handle < 1 << 63:
            place = place_of(&self.handles, handle)
        if place == NULL:
            raise KeyError(handle)
        self.groups[place.group].tag[place.slot] = label

    # --- queries

    def overlapping(self, value, mask, const unsigned char[::1] skip=None, limit=None):
        return self.answer(OVERLAPPING, value, mask, skip, limit)

    def covering(self, value, mask):
        return self.answer(COVERING, value, mask, None, None)

    def covered_by(self, value, mask):
        return self.answer(COVERED, value, mask, None, None)

    def overlaps_any(self, value, mask):
        cdef uint64_t match[2 * WORDS]
        unpack_match(value, mask, match)
        return self.meets(match)

    cdef bint covers(self, const uint64_t *match) except -1:
        """True iff some match has every packet of the given one."""
        cdef Py_ssize_t count = self.walk(COVERING, match, 1, NULL, 0)
        if count < 0:
            raise MemoryError()
        return count

    cdef bint meets(self, const uint64_t *match) except -1:
        """True iff some match shares a packet with the given one."""
        cdef Py_ssize_t count = self.walk(OVERLAPPING, match, 1, NULL, 0)
        if count < 0:
            raise MemoryError()
        return count

    def overlapping_tags(self, value, mask):
        cdef uint64_t match[2 * WORDS]
        cdef Py_ssize_t count, i
        cdef set tags = set()
        unpack_match(value, mask, match)
        count = self.walk(OVERLAPPING, match, -1, NULL, 0)
        if count < 0:
            raise MemoryError()
        for i in range(count):
            tags.add(self.groups[self.found[i] >> 32].tag[self.found[i] & 0xFFFFFFFF])
        self.trim()
        return list(tags)

    def missing(self, value, mask, MatchIndex other not None, const unsigned char[::1] skip=None):
        cdef uint64_t match[2 * WORDS]
        cdef uint64_t one[2 * WORDS]
        cdef Py_ssize_t count, i
        cdef uint32_t slot
        cdef Group *group
        cdef list handles = []
        if other is self:
            return handles  # each meets itself
        unpack_match(value, mask, match)
        if skip is not None and len(skip):
            count = self.walk(OVERLAPPING, match, -1, &skip[0], len(skip))
        else:
            count = self.walk(OVERLAPPING, match, -1, NULL, 0)
        if count < 0:
            raise MemoryError()
        for i in range(count):
            group, slot = &self.groups[self.found[i] >> 32], <uint32_t>self.found[i]
            memset(one, 0, sizeof(one))
            memcpy(one, group.match + <size_t>slot * 2 * group.words, group.words * sizeof(uint64_t))
            memcpy(one + WORDS, group.match + <size_t>slot * 2 * group.words + group.words, group.words * sizeof(uint64_t))
            if not other.meets(one):
                handles.append(group.handle[slot])
        self.trim()
        return handles

    cdef list answer(self, Relation relation, object value, object mask, const unsigned char[::1] skip, object limit):
        cdef uint64_t match[2 * WORDS]
        cdef Py_ssize_t most = -1 if limit is None else limit, count, i
        cdef list handles = []
        if limit is not None and most < 0:
            raise ValueError("limit is negative")
        unpack_match(value, mask, match)
        if skip is not None and len(skip):
            count = self.walk(relation, match, most, &skip[0], len(skip))
        else:
            count = self.walk(relation, match, most, NULL, 0)
        if count < 0:
            raise MemoryError()
        for i in range(count):
            handles.append(self.groups[self.found[i] >> 32].handle[self.found[i] & 0xFFFFFFFF])
        self.trim()
        return handles

    cdef void trim(self) noexcept nogil:
        """Give a large result buffer back."""
        if self.found_room > KEPT:
            free(self.found)
            self.found, self.found_room = NULL, 0

    cdef bint note(self, Py_ssize_t count, uint64_t location) noexcept nogil:
        cdef size_t room
        if <size_t>count == self.found_room:
            room = max(<size_t>64, 2 * self.found_room)
            if not resized(<void **>&self.found, room * sizeof(uint64_t)):
                return False
            self.found_room = room
        self.found[count] = location
        return True

    cdef Py_ssize_t walk(
        self, Relation relation, const uint64_t *match, Py_ssize_t limit, const unsigned char *skip, Py_ssize_t skips
    ) noexcept nogil:
        """Fill `found` with the places of the matches in this relation to the asked one, at most `limit` (-1: all), but
        those whose tag is flagged in `skip`. Returns how many; -1: no memory."""
        cdef const uint64_t *care = match + WORDS
        cdef uint64_t coarse[WORDS]
        cdef uint64_t common[WORDS]
        cdef uint64_t any_bit, unmet
        cdef uint32_t i, w, number, slot, compared
        cdef Py_ssize_t count = 0, before
        cdef Group *group
        cdef Probe *probe
        cdef bint exact
        if limit == 0 or not self.used:
            return 0
        for w in range(WORDS):  # every relation implies an overlap
            if (match[w] ^ self.hull[w]) & self.hull[WORDS + w] & care[w]:
                return 0
        floored(care, coarse)
        i = 0
        while i < self.live:
            number = self.order[i]
            i += 1
            group = &self.groups[number]
            any_bit = unmet = 0
            for w in range(group.words):
                common[w] = group.mask[w] & coarse[w]
                any_bit |= common[w]
                if relation == COVERING:  # a cover cares for nothing that the asked one leaves wild
                    unmet |= group.mask[w] & ~care[w]
                elif relation == COVERED:  # what is covered cares at least for what the asked one does
                    unmet |= coarse[w] & ~group.mask[w]
            if unmet:
                continue
            probe = NULL
            if any_bit and group.used > SMALL:
                for w in range(group.words, WORDS):
                    common[w] = 0
                probe = probe_for(group, common)
            before = count
            if probe == NULL:
                for slot in range(group.used):
                    if group.tag[slot] < skips and skip[group.tag[slot]]:
                        continue
                    if related(relation, group.match + <size_t>slot * 2 * group.words, group.words, match, care):
                        if not self.note(count, <uint64_t>number << 32 | slot):
                            return -1
                        count += 1
                        if count == limit:
                            break
            else:
                exact = memcmp(probe.care, common, group.words * sizeof(uint64_t)) == 0
                compared = 0
                slot = probe.head[<uint32_t>hashed(match, probe.care, group.words) & (probe.room - 1)]
                while slot != NIL:
                    compared += 1
                    if not (group.tag[slot] < skips and skip[group.tag[slot]]) and related(
                        relation, group.match + <size_t>slot * 2 * group.words, group.words, match, care
                    ):
                        if not self.note(count, <uint64_t>number << 32 | slot):
                            return -1
                        count += 1
                        if count == limit:
                            break
                    slot = probe.after[slot]
                if not exact:
                    group.wasted += compared - (count - before)
            if count == limit:
                if limit == 1:
                    self.promote(group)
                return count
        return count


def overlapped(list indexes not None, value, mask):
    cdef uint64_t match[2 * WORDS]
    cdef Py_ssize_t i
    cdef list positions = []
    unpack_match(value, mask, match)
    for i in range(len(indexes)):
        if (<MatchIndex?>indexes[i]).meets(match):
            positions.append(i)
    return positions
