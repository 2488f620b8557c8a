"""Classes of allows, and deny nodes, for _fastaccess, which cimports them: see _fastclasses.pyx."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ovspane._fastentries cimport Entries, Matches, Numbers, Tree
from ovspane._fastmatch cimport MatchIndex

cdef struct Class:
    uint64_t hash
    uint32_t place  # NIL: free
    uint32_t used, first  # its allows: how many, and the first of them
    uint32_t chain  # of its bucket; of a free one, the next free one
    uint32_t count
    uint32_t *hits  # `count` numbers of deny nodes, ascending
    int32_t level  # the depth of the deepest of them above; -1: none is
    int32_t stages  # how many `levels` has; -1: not worked out
    uint32_t *levels  # stage << 16 | level, ascending
    uint32_t next_class, asked  # where its allows went in the change number `asked`

cdef struct Clash:
    uint32_t node  # NIL: free
    uint32_t count

cdef class DenyNode:
    cdef readonly object name
    cdef uint32_t number, place
    cdef int32_t depth
    cdef int32_t at  # its stage; -1: none yet
    cdef uint32_t used, first  # its denies: how many, and the first of them
    cdef bint strained, bare
    cdef MatchIndex index
    cdef Clash *clashes  # open addressing
    cdef uint32_t clashes_used, clashes_room
    cdef uint8_t *deaf  # by class, 1: one deny more changes nothing for it (the `skip` of MatchIndex)
    cdef uint8_t *hitless  # 1: one less changes nothing
    cdef uint32_t known, flags_room

    cdef void forget_flags(self) noexcept
    cdef int clash(self, uint32_t other, int by) except -1

cdef class Classes:
    cdef Entries *entries
    cdef Matches *matches
    cdef Tree *tree
    cdef list nodes  # by number; None: free
    cdef MatchIndex denies  # of all nodes, tagged with the node's number; None while there are few nodes
    cdef Class *classes
    cdef uint32_t made, room, unused, used_classes
    cdef uint32_t *head
    cdef uint32_t buckets
    cdef Numbers hits  # of the allow in question; has room for all nodes
    cdef Numbers dirty  # entries whose rules may have changed
    cdef uint32_t work
    cdef list strained  # nodes that may need another stage

    cdef int tick(self, uint32_t steps) except -1
    cdef int mark(self, uint32_t entry) except -1
    cdef uint32_t class_of(self, uint32_t place) except? 0xFFFFFFFE
    cdef uint32_t new_class(self, uint32_t place, uint64_t mixed) except? 0xFFFFFFFE
    cdef int rebucket(self, uint32_t buckets) except -1
    cdef void drop_class(self, uint32_t number) noexcept
    cdef int count_clashes(self, uint32_t number, int by) except -1
    cdef int strain(self, DenyNode node) except -1
    cdef int learn_flags(self, DenyNode node) except -1
    cdef void set_flags(self, DenyNode node, uint32_t number) noexcept
    cdef bint has(self, uint32_t number, uint32_t node) noexcept
    cdef bint minds(self, uint32_t number, DenyNode node) noexcept
    cdef int levels(self, uint32_t number) except -1
