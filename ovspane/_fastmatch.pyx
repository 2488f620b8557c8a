# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The overlap index: which of many ternary matches meet a given one. Compiled; `_fastmatch_py` is its plain twin.

Above: ovspane.overlap, the only importer. Below: nothing. The typed interface is in _fastmatch.pyi.

Quantised tuple space (engine.md, section 4): matches are grouped by their mask with prefix lengths floored to a few
levels and other fields floored to all or nothing. All members of a group, and so all that can meet a query, agree with
the query in the bits that the group's mask and the query's floored mask have in common: one look-up in a hash over
those bits (a probe, built when first asked for) gives the candidates, and each is then compared exactly.

Bounds: a query costs at most one pass over all matches, whatever their masks are: groups of up to SMALL members are
passed over in order, and a group has at most PROBES probes. When a query's own probe is not among them, the next best
serves (any subset of the common bits gives all candidates), and only after that has wasted as many comparisons as a
probe costs to build, the least used one gives way. Empty groups are freed, shrunken ones shrink. A query that is
disjoint from the hull of all matches ends at once: that is what indexes of disjoint shares answer most of the time.

Invariants: the slots 0 .. used-1 of a group are dense (a removal moves the last one into the gap); `places` has the
group and slot of each handle; every probe links every slot of its group; value & ~mask == 0 in each match; `hull` covers each (it may be wider than need
be after removals). The GIL is
held throughout: a query may build a probe.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

DEF WORDS = 8
DEF NARROW = 4  # words of a match that says nothing of IPv6 addresses: it fills one cache line
DEF SMALL = 12
DEF PROBES = 8
DEF LEAST = 4  # slots of the smallest group
DEF KEPT = 4096  # results for which the buffer is kept between queries

cdef uint32_t NIL = 0xFFFFFFFF

cdef enum Relation:
    OVERLAPPING = 0
    COVERING = 1
    COVERED = 2

cdef struct Place:
    int64_t handle  # -1: free
    uint32_t group
    uint32_t slot

cdef struct Probe:
    uint64_t care[WORDS]
    uint64_t uses
    uint32_t room  # of `head`, a power of two
    uint32_t *head  # slot by bucket
    uint32_t *after  # the chains, by slot
    uint32_t *before

cdef struct Group:
    uint64_t mask[WORDS]  # floored
    uint64_t wasted  # comparisons that a probe of its own would have spared, since one was built last
    uint32_t words, used, room, probes
    uint32_t at  # position in `order`
    uint64_t *match  # per slot `words` of value, then `words` of mask
    int64_t *handle
    uint32_t *tag
    Probe *probe

cdef extern from *:
    """
    #include <stdint.h>
    /* Fields that are floored to all or nothing (match.LAYOUT), word by word; addresses are floored in `floored`. */
    #define FIELD_COUNT 12
    static const uint64_t FIELDS[FIELD_COUNT] = {
        0xffffull << 48, 0xffffull << 32, 0xffull << 24, 0x3full << 16, 0xffffull, /* ports, protocol, DSCP, EtherType */
        0xffffffffffffull << 16, 0x1fffull, 0x2000ull,                             /* source MAC, VLAN, mark */
        0xffffffffffffull << 16, 0xffffull,                                        /* destination MAC, in_port */
        ~0ull, ~0ull,                                                              /* the lower halves of IPv6 addresses */
    };
    static const int FIELD_WORD[FIELD_COUNT] = {1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 6};
    /* Counts bits; a loop-free sum in halves, so that it is the same on every CPU. */
    static inline uint64_t ones(uint64_t x) {
        x -= (x >> 1) & 0x5555555555555555u;
        x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
        return (((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u) >> 56;
    }
    """
    const int FIELD_COUNT
    const uint64_t *FIELDS
    const int *FIELD_WORD
    uint64_t ones(uint64_t x) nogil


cdef inline uint64_t floored_prefix(uint64_t mask, int width, int step) noexcept nogil:
    """The leading ones of a `width`-bit mask, in whole steps."""
    cdef uint64_t kept = 0, block
    cdef int high = width - step
    while high >= 0:
        block = ((<uint64_t>1 << step) - 1) << high
        if mask & block != block:
            break
        kept |= block
        high -= step
    return kept


cdef void floored(const uint64_t *mask, uint64_t *out) noexcept nogil:
    """A subset of the mask's bits, of which there are few different ones; monotone: a subset's is a subset."""
    cdef int i
    cdef uint64_t whole
    memset(out, 0, WORDS * sizeof(uint64_t))
    out[0] = floored_prefix(mask[0] >> 32, 32, 8) << 32 | floored_prefix(<uint32_t>mask[0], 32, 8)
    out[5] = floored_prefix(mask[5], 64, 16)
    out[7] = floored_prefix(mask[7], 64, 16)
    for i in range(FIELD_COUNT):
        whole = FIELDS[i]
        if mask[FIELD_WORD[i]] & whole == whole:
            out[FIELD_WORD[i]] |= whole


cdef inline uint64_t hashed(const uint64_t *value, const uint64_t *care, uint32_t words) noexcept nogil:
    """Mixes the cared-for bits (multiply and fold, as in splitmix64)."""
    cdef uint64_t sum = 0x9E3779B97F4A7C15
    cdef uint32_t w
    for w in range(words):
        sum = (sum ^ (value[w] & care[w])) * <uint64_t>0xBF58476D1CE4E5B9
        sum ^= sum >> 31
    return sum


cdef inline bint related(
    Relation relation, const uint64_t *match, uint32_t words, const uint64_t *asked, const uint64_t *care
) noexcept nogil:
    """True iff the stored match has the relation to (asked, care). Words beyond `words` are wild in the stored one."""
    cdef const uint64_t *mask = match + words
    cdef uint32_t w
    if relation == OVERLAPPING:
        for w in range(words):
            if (match[w] ^ asked[w]) & mask[w] & care[w]:
                return False
    elif relation == COVERING:
        for w in range(words):
            if mask[w] & (~care[w] | (match[w] ^ asked[w])):
                return False
    else:
        for w in range(words):
            if care[w] & (~mask[w] | (match[w] ^ asked[w])):
                return False
        for w in range(words, WORDS):
            if care[w]:
                return False
    return True


cdef int unpack(object number, uint64_t *words, str what) except -1:
    """The eight words of an int in 0 .. 2**512-1."""
    cdef bytes raw
    cdef const unsigned char *byte
    cdef int w, i
    cdef uint64_t word
    if not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    try:
        raw = int.to_bytes(number, 8 * WORDS, "little")
    except OverflowError:
        raise ValueError(f"{what} is not in 0 .. 2**512-1") from None
    byte = raw
    for w in range(WORDS):
        word = 0
        for i in range(7, -1, -1):
            word = (word << 8) | byte[8 * w + i]
        words[w] = word
    return 0


cdef int unpack_match(object value, object mask, uint64_t *match) except -1:
    """WORDS of value, then WORDS of mask."""
    cdef int w
    unpack(value, match, "value")
    unpack(mask, match + WORDS, "mask")
    for w in range(WORDS):
        if match[w] & ~match[WORDS + w]:
            raise ValueError("value has bits outside its mask")
    return 0


cdef int64_t checked_handle(object handle) except -1:
    if not isinstance(handle, int):
        raise TypeError(f"handle must be an int, not {type(handle).__name__}")
    if not 0 <= handle < 1 << 63:
        raise ValueError("handle is not in 0 .. 2**63-1")
    return handle


cdef uint32_t checked_tag(object tag) except? 0xFFFFFFFF:
    if not isinstance(tag, int):
        raise TypeError(f"tag must be an int, not {type(tag).__name__}")
    if not 0 <= tag < 1 << 31:
        raise ValueError("tag is not in 0 .. 2**31-1")
    return tag


cdef bint resized(void **block, size_t size) noexcept nogil:
    """Reallocate in place of `block`; False leaves it as it was."""
    cdef void *new = realloc(block[0], size)
    if new == NULL:
        return False
    block[0] = new
    return True


# --- a group and its probes

cdef inline uint32_t bucket(const Group *group, const Probe *probe, uint32_t slot) noexcept nogil:
    return <uint32_t>hashed(group.match + <size_t>slot * 2 * group.words, probe.care, group.words) & (probe.room - 1)


cdef void link(Group *group, Probe *probe, uint32_t slot) noexcept nogil:
    cdef uint32_t b = bucket(group, probe, slot)
    cdef uint32_t first = probe.head[b]
    probe.after[slot] = first
    probe.before[slot] = NIL
    if first != NIL:
        probe.before[first] = slot
    probe.head[b] = slot


cdef void unlink(Group *group, Probe *probe, uint32_t slot) noexcept nogil:
    cdef uint32_t after = probe.after[slot], before = probe.before[slot]
    if after != NIL:
        probe.before[after] = before
    if before != NIL:
        probe.after[before] = after
    else:
        probe.head[bucket(group, probe, slot)] = after


cdef bint spread(Group *group, Probe *probe) noexcept nogil:
    """Give the probe buckets for all slots, and link them; False, and nothing changed, if there is no memory."""
    cdef uint32_t room = 16, slot
    cdef uint32_t *head
    while room < 2 * group.used:
        room *= 2
    head = <uint32_t *>malloc(room * sizeof(uint32_t))
    if head == NULL:
        return False
    memset(head, 0xFF, room * sizeof(uint32_t))
    free(probe.head)
    probe.head, probe.room = head, room
    for slot in range(group.used):
        link(group, probe, slot)
    return True


cdef void drop_probe(Group *group, uint32_t number) noexcept nogil:
    cdef Probe *probe = group.probe + number
    free(probe.head)
    free(probe.after)
    free(probe.before)
    group.probes -= 1
    if number != group.probes:
        probe[0] = group.probe[group.probes]


cdef Probe *new_probe(Group *group, const uint64_t *care) noexcept nogil:
    """NULL if there is no memory."""
    cdef Probe *probe
    if group.probe == NULL:
        group.probe = <Probe *>malloc(PROBES * sizeof(Probe))
        if group.probe == NULL:
            return NULL
    probe = group.probe + group.probes
    memset(probe, 0, sizeof(Probe))
    memcpy(probe.care, care, sizeof(probe.care))
    probe.after = <uint32_t *>malloc(group.room * sizeof(uint32_t))
    probe.before = <uint32_t *>malloc(group.room * sizeof(uint32_t))
    if probe.after == NULL or probe.before == NULL or not spread(group, probe):
        free(probe.after)
        free(probe.before)
        return NULL
    group.probes += 1
    group.wasted = 0
    return probe


cdef Probe *probe_for(Group *group, const uint64_t *care) noexcept nogil:
    """The probe with this care, a new one, or the best that is there; NULL: pass over the group."""
    cdef Probe *probe
    cdef Probe *best = NULL
    cdef uint32_t i, w, least = 0
    cdef uint64_t bits, most = 0
    for i in range(group.probes):
        probe = group.probe + i
        if memcmp(probe.care, care, group.words * sizeof(uint64_t)) == 0:
            probe.uses += 1
            return probe
    if group.probes == PROBES and group.wasted > 4 * <uint64_t>group.used:
        for i in range(1, PROBES):
            if group.probe[i].uses < group.probe[least].uses:
                least = i
        drop_probe(group, least)
        for i in range(group.probes):
            group.probe[i].uses >>= 1  # what was popular long ago may go too
    if group.probes < PROBES:
        return new_probe(group, care)
    for i in range(PROBES):
        probe = group.probe + i
        bits = 1
        for w in range(group.words):
            if probe.care[w] & ~care[w]:
                bits = 0
                break
            bits += ones(probe.care[w])
        if bits > most:
            most, best = bits, probe
    return best


cdef bint resize_group(Group *group, uint32_t room) noexcept nogil:
    """Give every array `room` slots (at least `used`). On False some arrays may be larger than `group.room`."""
    cdef uint32_t i
    if room < group.room:
        group.room = room  # before shrinking: a failure half-way must not leave `room` above an array's size
    if not resized(<void **>&group.match, <size_t>room * 2 * group.words * sizeof(uint64_t)):
        return False
    if not resized(<void **>&group.handle, room * sizeof(int64_t)) or not resized(<void **>&group.tag, room * sizeof(uint32_t)):
        return False
    for i in range(group.probes):
        if not resized(<void **>&group.probe[i].after, room * sizeof(uint32_t)):
            return False
        if not resized(<void **>&group.probe[i].before, room * sizeof(uint32_t)):
            return False
    group.room = room
    return True


cdef void free_group(Group *group) noexcept nogil:
    while group.probes:
        drop_probe(group, group.probes - 1)
    free(group.probe)
    free(group.match)
    free(group.handle)
    free(group.tag)
    memset(group, 0, sizeof(Group))


@cython.final
cdef class MatchIndex:
    """Matches by handle, with the queries. See _fastmatch.pyi."""

    cdef Place *places  # open addressing, linear probing
    cdef size_t places_room, used
    cdef Group *groups
    cdef uint32_t *order  # the groups in use, those that answered last nearer the front
    cdef uint32_t *by_mask  # group numbers, open addressing over (mask, words)
    cdef uint32_t live, made, groups_room, by_mask_room, unused  # `unused`: a chain of freed groups through `at`
    cdef uint64_t hull[2 * WORDS]  # a match that covers all that are there: value, then mask
    cdef uint64_t *found  # group << 32 | slot
    cdef size_t found_room

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
        free(self.places)
        free(self.found)

    def __len__(self):
        return self.used

    def __contains__(self, handle):
        if not isinstance(handle, int) or not 0 <= handle < 1 << 63:
            return False
        return self.place_of(handle) != NULL

    def __sizeof__(self):
        cdef size_t size = sizeof(Place) * self.places_room + 8 * self.found_room + 4 * self.by_mask_room
        cdef Group *group
        cdef uint32_t i, k
        size += (sizeof(Group) + 4) * self.groups_room
        for i in range(self.live):
            group = &self.groups[self.order[i]]
            size += <size_t>group.room * (16 * group.words + 12) + (PROBES * sizeof(Probe) if group.probe != NULL else 0)
            for k in range(group.probes):
                size += <size_t>group.room * 8 + 4 * group.probe[k].room
        return object.__sizeof__(self) + size

    # --- the handles

    cdef inline size_t home(self, int64_t handle) noexcept nogil:
        return <size_t>((<uint64_t>handle * <uint64_t>0x9E3779B97F4A7C15) >> 20) & (self.places_room - 1)

    cdef Place *place_of(self, int64_t handle) noexcept nogil:
        cdef size_t i
        if not self.used:
            return NULL
        i = self.home(handle)
        while self.places[i].handle != -1:
            if self.places[i].handle == handle:
                return &self.places[i]
            i = (i + 1) & (self.places_room - 1)
        return NULL

    cdef void put_place(self, int64_t handle, uint32_t group, uint32_t slot) noexcept nogil:
        cdef size_t i = self.home(handle)
        while self.places[i].handle != -1:
            i = (i + 1) & (self.places_room - 1)
        self.places[i].handle, self.places[i].group, self.places[i].slot = handle, group, slot

    cdef void drop_place(self, Place *place) noexcept nogil:
        """Close the gap: whatever probed past it and now can stand there moves up (Knuth 6.4, algorithm R)."""
        cdef size_t gap = place - self.places, i = gap, home
        while True:
            i = (i + 1) & (self.places_room - 1)
            if self.places[i].handle == -1:
                break
            home = self.home(self.places[i].handle)
            if (i - home) & (self.places_room - 1) >= (i - gap) & (self.places_room - 1):
                self.places[gap] = self.places[i]
                gap = i
        self.places[gap].handle = -1

    cdef bint resize_places(self, size_t room) noexcept nogil:
        cdef Place *old = self.places
        cdef size_t old_room = self.places_room, i
        cdef Place *new = <Place *>malloc(room * sizeof(Place))
        if new == NULL:
            return False
        memset(new, 0xFF, room * sizeof(Place))
        self.places, self.places_room = new, room
        for i in range(old_room):
            if old[i].handle != -1:
                self.put_place(old[i].handle, old[i].group, old[i].slot)
        free(old)
        return True

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
        if self.place_of(number) != NULL:
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
        if 4 * (self.used + 1) > 3 * self.places_room and not self.resize_places(max(<size_t>16, 2 * self.places_room)):
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
        self.put_place(handle, number, slot)
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
            place = self.place_of(handle)
        if place == NULL:
            raise KeyError(handle)
        self.delete(place)

    cdef void delete(self, Place *place) noexcept nogil:
        cdef uint32_t number = place.group, slot = place.slot, last, i
        cdef Group *group = &self.groups[number]
        cdef size_t record = 2 * group.words
        self.drop_place(place)
        self.used -= 1
        last = group.used - 1
        for i in range(group.probes):
            unlink(group, &group.probe[i], slot)
            if slot != last:
                unlink(group, &group.probe[i], last)
        if slot != last:
            memcpy(group.match + slot * record, group.match + last * record, record * sizeof(uint64_t))
            group.handle[slot], group.tag[slot] = group.handle[last], group.tag[last]
            self.place_of(group.handle[slot]).slot = slot
            for i in range(group.probes):
                link(group, &group.probe[i], slot)
        group.used = last
        if not last:
            self.drop_group(number)
        elif group.room > 4 * LEAST and 4 * last < group.room:
            resize_group(group, group.room // 2)  # if it cannot shrink it stays
        if self.places_room > 64 and 8 * self.used < self.places_room:
            self.resize_places(self.places_room // 2)
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
            place = self.place_of(handle)
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

    cdef bint meets(self, const uint64_t *match) except -1:
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
