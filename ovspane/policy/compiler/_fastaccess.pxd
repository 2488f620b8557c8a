"""The access stages for _fastcompile, which cimports them: see _fastaccess.pyx."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ovspane.policy.compiler._fastentries cimport Entries, Matches, Numbers, Tree
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

cdef class AccessStages:
    cdef Entries *entries
    cdef Matches *matches
    cdef Tree *tree
    cdef list names  # of the nodes of the tree, by number
    cdef object recoloured
    cdef uint32_t many  # with more deny nodes than this, one index over all denies is asked
    cdef list nodes, free_nodes  # nodes by number; None: free
    cdef uint32_t live
    cdef MatchIndex allows
    cdef MatchIndex denies  # of all nodes, tagged with the node's number; None while there are few nodes
    cdef Class *classes
    cdef uint32_t made, room, unused, used_classes
    cdef uint32_t *head
    cdef uint32_t buckets
    cdef Numbers met  # the handles that a query found
    cdef Numbers hits  # of the allow in question; has room for all nodes
    cdef Numbers dirty  # entries whose rules may have changed
    cdef list strained, bare
    cdef uint32_t change
    cdef uint32_t work

    cdef int tick(self, uint32_t steps) except -1
    cdef int mark(self, uint32_t entry) except -1
    cdef int enter(self, uint32_t entry) except -1
    cdef int leave(self, uint32_t entry) except -1
    cdef int add_deny(self, uint32_t entry, DenyNode node) except -1
    cdef int remove_deny(self, uint32_t entry, DenyNode node) except -1
    cdef int add_allow(self, uint32_t entry) except -1
    cdef int remove_allow(self, uint32_t entry) except -1
    cdef DenyNode node_at(self, uint32_t place)
    cdef DenyNode new_node(self, uint32_t place)
    cdef int index_all(self) except -1
    cdef int find(self, DenyNode node, const uint64_t *match, const uint8_t *skip, uint32_t skips) except -1
    cdef int move(self, uint32_t entry, uint32_t number) except -1
    cdef uint32_t with_node(self, uint32_t number, DenyNode node, uint32_t entry) except? 0xFFFFFFFE
    cdef uint32_t without_node(self, uint32_t number, DenyNode node) except? 0xFFFFFFFE
    cdef int hits_of(self, const uint64_t *match, uint32_t place) except -1
    cdef int add_beside(self, const uint64_t *match, uint32_t place, int32_t above, int32_t level) except -1
    cdef void sort_hits(self) noexcept
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
    cdef void link(self, uint32_t entry, uint32_t *first) noexcept
    cdef void unlink(self, uint32_t entry, uint32_t *first) noexcept
    cdef int levels(self, uint32_t number) except -1
    cdef dict clashes(self, list nodes)
    cdef dict recolour(self, int limit)
    cdef int settle(self, dict stages) except -1
    cdef int move_nodes(self, dict stages) except -1
