"""The overlap index for other compiled rooms, which cimport it: by handles, words and counts, without Python objects
between.

`walk` leaves its results in `found` until the next query; `trim` gives a large buffer back afterwards.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ovspane._fastmatch_handles cimport Handles, Place
from ovspane._fastmatch_group cimport Group
from ovspane._fastmatch_words cimport WORDS, Relation


cdef class MatchIndex:
    cdef Handles handles
    cdef size_t used
    cdef Group *groups
    cdef uint32_t *order  # the groups in use, those that answered last nearer the front
    cdef uint32_t *by_mask  # group numbers, open addressing over (mask, words)
    cdef uint32_t live, made, groups_room, by_mask_room, unused  # `unused`: a chain of freed groups through `at`
    cdef uint64_t hull[2 * WORDS]  # a match that covers all that are there: value, then mask
    cdef uint64_t *found  # group << 32 | slot
    cdef size_t found_room

    cdef inline uint32_t mask_home(self, const uint64_t *mask, uint32_t words) noexcept nogil
    cdef uint32_t group_of(self, const uint64_t *mask, uint32_t words) noexcept nogil
    cdef void put_group(self, uint32_t number) noexcept nogil
    cdef bint resize_by_mask(self, uint32_t room) noexcept nogil
    cdef uint32_t new_group(self, const uint64_t *mask, uint32_t words) noexcept nogil
    cdef void drop_group(self, uint32_t number) noexcept nogil
    cdef void promote(self, Group *group) noexcept nogil
    cdef bint insert(self, int64_t handle, const uint64_t *match, uint32_t tag) noexcept nogil
    cdef void delete(self, Place *place) noexcept nogil
    cdef bint covers(self, const uint64_t *match) except -1
    cdef bint meets(self, const uint64_t *match) except -1
    cdef list answer(self, Relation relation, object value, object mask, const unsigned char[::1] skip, object limit)
    cdef void trim(self) noexcept nogil
    cdef bint note(self, Py_ssize_t count, uint64_t location) noexcept nogil
    cdef Py_ssize_t walk(
        self, Relation relation, const uint64_t *match, Py_ssize_t limit, const unsigned char *skip, Py_ssize_t skips
    ) noexcept nogil
