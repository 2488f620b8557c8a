"""A group of the overlap index: the matches with one floored mask, and the hashes over common bits (probes) that find
among them.

Inline functions only. Invariants: the slots 0 .. used-1 are dense; every probe links every slot.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from ovspane._fastmatch_words cimport NIL, WORDS, hashed, ones, resized

cdef enum:
    PROBES = 8

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


cdef inline uint32_t bucket(const Group *group, const Probe *probe, uint32_t slot) noexcept nogil:
    return <uint32_t>hashed(group.match + <size_t>slot * 2 * group.words, probe.care, group.words) & (probe.room - 1)


cdef inline void link(Group *group, Probe *probe, uint32_t slot) noexcept nogil:
    cdef uint32_t b = bucket(group, probe, slot)
    cdef uint32_t first = probe.head[b]
    probe.after[slot] = first
    probe.before[slot] = NIL
    if first != NIL:
        probe.before[first] = slot
    probe.head[b] = slot


cdef inline void unlink(Group *group, Probe *probe, uint32_t slot) noexcept nogil:
    cdef uint32_t after = probe.after[slot], before = probe.before[slot]
    if after != NIL:
        probe.before[after] = before
    if before != NIL:
        probe.after[before] = after
    else:
        probe.head[bucket(group, probe, slot)] = after


cdef inline bint spread(Group *group, Probe *probe) noexcept nogil:
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


cdef inline void drop_probe(Group *group, uint32_t number) noexcept nogil:
    cdef Probe *probe = group.probe + number
    free(probe.head)
    free(probe.after)
    free(probe.before)
    group.probes -= 1
    if number != group.probes:
        probe[0] = group.probe[group.probes]


cdef inline Probe *new_probe(Group *group, const uint64_t *care) noexcept nogil:
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


cdef inline Probe *probe_for(Group *group, const uint64_t *care) noexcept nogil:
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


cdef inline bint resize_group(Group *group, uint32_t room) noexcept nogil:
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


cdef inline void free_group(Group *group) noexcept nogil:
    while group.probes:
        drop_probe(group, group.probes - 1)
    free(group.probe)
    free(group.match)
    free(group.handle)
    free(group.tag)
    memset(group, 0, sizeof(Group))
