"""The access stages for _fastcompile, which cimports them: see _fastaccess.pyx."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ovspane._fastclasses cimport Classes, DenyNode
from ovspane._fastentries cimport Numbers
from ovspane._fastmatch cimport MatchIndex

cdef class AccessStages(Classes):
    cdef list names  # of the nodes of the tree, by number
    cdef object recoloured
    cdef uint32_t many  # with more deny nodes than this, one index over all denies is asked
    cdef list free_nodes  # their numbers
    cdef uint32_t live
    cdef MatchIndex allows
    cdef Numbers met  # the handles that a query found
    cdef list bare  # nodes that may have no denies any more
    cdef uint32_t change

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
    cdef void link(self, uint32_t entry, uint32_t *first) noexcept
    cdef void unlink(self, uint32_t entry, uint32_t *first) noexcept
    cdef dict clashes(self, list nodes)
    cdef dict recolour(self, int limit)
    cdef int settle(self, dict stages) except -1
    cdef int move_nodes(self, dict stages) except -1
