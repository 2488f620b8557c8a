"""A hash map from handles (integers from 0 to 2**63-1) to two small numbers, for the compiled rooms.

Inline functions only. Open addressing with linear probing; a removal closes its gap, so nothing lingers. A pointer to a
place holds until the map changes.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef struct Place:
    int64_t handle  # -1: free
    uint32_t group
    uint32_t slot

cdef struct Handles:  # all zero: empty
    Place *places
    size_t room, used  # `room` is a power of two or 0


cdef inline size_t home(const Handles *map, int64_t handle) noexcept nogil:
    return <size_t>((<uint64_t>handle * <uint64_t>0x9E3779B97F4A7C15) >> 20) & (map.room - 1)


cdef inline Place *place_of(const Handles *map, int64_t handle) noexcept nogil:
    """NULL if it is not there."""
    cdef size_t i
    if not map.used:
        return NULL
    i = home(map, handle)
    while map.places[i].handle != -1:
        if map.places[i].handle == handle:
            return &map.places[i]
        i = (i + 1) & (map.room - 1)
    return NULL


cdef inline void put(Handles *map, int64_t handle, uint32_t group, uint32_t slot) noexcept nogil:
    cdef size_t i = home(map, handle)
    while map.places[i].handle != -1:
        i = (i + 1) & (map.room - 1)
    map.places[i].handle, map.places[i].group, map.places[i].slot = handle, group, slot


cdef inline bint resize_handles(Handles *map, size_t room) noexcept nogil:
    """False, and nothing changed, if there is no memory."""
    cdef Place *old = map.places
    cdef size_t old_room = map.room, i
    cdef Place *new = <Place *>malloc(room * sizeof(Place))
    if new == NULL:
        return False
    memset(new, 0xFF, room * sizeof(Place))
    map.places, map.room = new, room
    for i in range(old_room):
        if old[i].handle != -1:
            put(map, old[i].handle, old[i].group, old[i].slot)
    free(old)
    return True


cdef inline bint room_for_one(Handles *map) noexcept nogil:
    """Have room for one more; False if there is no memory."""
    return 4 * (map.used + 1) <= 3 * map.room or resize_handles(map, max(<size_t>16, 2 * map.room))


cdef inline void put_place(Handles *map, int64_t handle, uint32_t group, uint32_t slot) noexcept nogil:
    """Put in a handle that is not there; there must be room for one."""
    put(map, handle, group, slot)
    map.used += 1


cdef inline void drop_place(Handles *map, Place *place) noexcept nogil:
    """Close the gap: whatever probed past it and now can stand there moves up (Knuth 6.4, algorithm R)."""
    cdef size_t gap = place - map.places, i = gap, at
    while True:
        i = (i + 1) & (map.room - 1)
        if map.places[i].handle == -1:
            break
        at = home(map, map.places[i].handle)
        if (i - at) & (map.room - 1) >= (i - gap) & (map.room - 1):
            map.places[gap] = map.places[i]
            gap = i
    map.places[gap].handle = -1
    map.used -= 1
    if map.room > 64 and 8 * map.used < map.room:
        resize_handles(map, map.room // 2)  # if it cannot shrink it stays
