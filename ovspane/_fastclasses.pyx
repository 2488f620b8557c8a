# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Classes of allows, and the deny nodes that they meet: what levels and clashes follow from (policy.access explains both).

Above: _fastaccess, whose queries say what an allow meets and which change their class. Below: _fastentries. A class is of the allows
of one place with the same `hits`; it ends with its last one, and its number is used again.

Invariants: `hits`, the numbers of the allow in question, ascending, has room for all nodes; `clashes` count, per pair of nodes, the
classes that cause it; deaf and hitless flags are right for the classes below `known`.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from ovspane._fastentries cimport grown, is_above, push
from ovspane._fastmatch_words cimport NIL, resized

cdef enum:
    PATIENCE = 1024  # steps of at most 1 us or so before other threads may run


cdef class DenyNode:
    """A node of the policy tree that has denies."""

    def __dealloc__(self):
        free(self.clashes)
        self.forget_flags()

    cdef void forget_flags(self) noexcept:
        free(self.deaf)
        free(self.hitless)
        self.deaf = self.hitless = NULL
        self.known = self.flags_room = 0

    cdef int clash(self, uint32_t other, int by) except -1:
        """Count one class more (`by` 1) or less (-1) that causes a clash with another node. A count of 0 stays until the map grows."""
        cdef Clash *old = self.clashes
        cdef uint32_t i, old_room = self.clashes_room
        if by > 0 and 2 * (self.clashes_used + 1) > old_room:
            self.clashes = <Clash *>malloc(max(8, 2 * old_room) * sizeof(Clash))
            if self.clashes == NULL:
                self.clashes = old
                raise MemoryError()
            self.clashes_room, self.clashes_used = max(8, 2 * old_room), 0
            memset(self.clashes, 0xFF, self.clashes_room * sizeof(Clash))
            for i in range(old_room):
                if old[i].node != NIL and old[i].count:
                    self.clash(old[i].node, old[i].count)
            free(old)
        i = (other * <uint32_t>0x9E3779B1) >> 8 & (self.clashes_room - 1)
        while self.clashes[i].node != NIL and self.clashes[i].node != other:
            i = (i + 1) & (self.clashes_room - 1)
        if self.clashes[i].node == NIL:
            self.clashes[i].node, self.clashes[i].count = other, 0
            self.clashes_used += 1
        self.clashes[i].count += by
        return 0

    @property
    def stage(self):
        """The stage it stands in, or None."""
        return self.at if self.at >= 0 else None

    @property
    def weight(self):
        """How many denies it has."""
        return self.used


cdef class Classes:
    def __cinit__(self, *_arguments):
        self.nodes, self.strained = [], []
        self.unused = NIL
        if not grown(<void **>&self.hits.at, &self.hits.room, 1, sizeof(uint32_t)):
            raise MemoryError()

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.made):
            free(self.classes[i].hits)
            free(self.classes[i].levels)
        free(self.classes)
        free(self.head)
        free(self.hits.at)
        free(self.dirty.at)

    cdef int tick(self, uint32_t steps) except -1:
        """Count work; now and then let other threads run."""
        self.work += steps
        if self.work >= PATIENCE:
            self.work = 0
            with nogil:
                pass
        return 0

    cdef int mark(self, uint32_t entry) except -1:
        if not self.entries.at[entry].dirty:
            if not push(&self.dirty, entry):
                raise MemoryError()
            self.entries.at[entry].dirty = True
        return 0

    # --- classes

    cdef bint has(self, uint32_t number, uint32_t node) noexcept:
        cdef Class *one = &self.classes[number]
        cdef uint32_t low = 0, high = one.count, middle
        while low < high:
            middle = (low + high) // 2
            if one.hits[middle] < node:
                low = middle + 1
            else:
                high = middle
        return low < one.count and one.hits[low] == node

    cdef bint minds(self, uint32_t number, DenyNode node) noexcept:
        """Whether a deny of the node matters to the class, should it overlap the members."""
        return node.depth <= self.classes[number].level or is_above(self.tree, node.place, self.classes[number].place)

    cdef uint32_t class_of(self, uint32_t place) except? 0xFFFFFFFE:
        """The class of the allows of a place whose hits are `hits`."""
        cdef uint64_t mixed = <uint64_t>place * <uint64_t>0x9E3779B97F4A7C15
        cdef uint32_t i, number = NIL
        cdef Class *one
        for i in range(self.hits.used):
            mixed = (mixed ^ self.hits.at[i]) * <uint64_t>0xBF58476D1CE4E5B9
            mixed ^= mixed >> 31
        if self.buckets:
            number = self.head[<uint32_t>mixed & (self.buckets - 1)]
        while number != NIL:
            one = &self.classes[number]
            if one.hash == mixed and one.place == place and one.count == self.hits.used:
                if memcmp(one.hits, self.hits.at, one.count * sizeof(uint32_t)) == 0:
                    return number
            number = one.chain
        return self.new_class(place, mixed)

    cdef uint32_t new_class(self, uint32_t place, uint64_t mixed) except? 0xFFFFFFFE:
        cdef uint32_t number = self.unused, i
        cdef Class *one
        cdef DenyNode node
        cdef uint32_t *hits = <uint32_t *>malloc((self.hits.used + 1) * sizeof(uint32_t))
        if hits == NULL:
            raise MemoryError()
        if number == NIL and not grown(<void **>&self.classes, &self.room, self.made + 1, sizeof(Class)):
            free(hits)
            raise MemoryError()
        if self.used_classes >= self.buckets:
            try:
                self.rebucket(max(64, 2 * self.buckets))
            except MemoryError:
                free(hits)
                raise
        if number != NIL:
            self.unused = self.classes[number].chain
        else:
            number = self.made
            self.made += 1
        one = &self.classes[number]
        memset(one, 0, sizeof(Class))
        memcpy(hits, self.hits.at, self.hits.used * sizeof(uint32_t))
        one.hits, one.count, one.hash, one.place = hits, self.hits.used, mixed, place
        one.first, one.stages, one.level = NIL, -1, -1
        one.chain = self.head[<uint32_t>mixed & (self.buckets - 1)]
        self.head[<uint32_t>mixed & (self.buckets - 1)] = number
        self.used_classes += 1
        for i in range(one.count):
            node = <DenyNode>self.nodes[hits[i]]
            if node.depth > one.level and is_above(self.tree, node.place, place):
                one.level = node.depth
        if self.denies is None:
            for node in self.nodes:
                if node is not None and number < node.known:
                    self.set_flags(node, number)
        self.count_clashes(number, 1)
        self.tick(1)
        return number

    cdef int rebucket(self, uint32_t buckets) except -1:
        cdef uint32_t i, b
        if not resized(<void **>&self.head, <size_t>buckets * sizeof(uint32_t)):
            raise MemoryError()
        self.buckets = buckets
        memset(self.head, 0xFF, <size_t>buckets * sizeof(uint32_t))
        for i in range(self.made):
            if self.classes[i].place != NIL:
                b = <uint32_t>self.classes[i].hash & (buckets - 1)
                self.classes[i].chain = self.head[b]
                self.head[b] = i
        return 0

    cdef void drop_class(self, uint32_t number) noexcept:
        """End a class without members."""
        cdef Class *one = &self.classes[number]
        cdef uint32_t *at = &self.head[<uint32_t>one.hash & (self.buckets - 1)]
        self.count_clashes(number, -1)
        while at[0] != number:
            at = &self.classes[at[0]].chain
        at[0] = one.chain
        free(one.hits)
        free(one.levels)
        memset(one, 0, sizeof(Class))
        one.place, one.chain = NIL, self.unused
        self.unused = number
        self.used_classes -= 1

    cdef int count_clashes(self, uint32_t number, int by) except -1:
        """Count the pairs of nodes that clash because of a class: one above, and one beside that is not deeper."""
        cdef Class *one = &self.classes[number]
        cdef uint32_t i, k
        cdef DenyNode node, other
        if one.count < 2:
            return 0
        for i in range(one.count):
            node = <DenyNode>self.nodes[one.hits[i]]
            if not is_above(self.tree, node.place, one.place):
                continue
            for k in range(one.count):
                other = <DenyNode>self.nodes[one.hits[k]]
                if other.depth > node.depth or is_above(self.tree, other.place, one.place):
                    continue
                node.clash(other.number, by)
                other.clash(node.number, by)
                if by > 0 and node.at >= 0 and node.at == other.at:
                    self.strain(node)
                    self.strain(other)
        return 0

    cdef int strain(self, DenyNode node) except -1:
        if not node.strained:
            node.strained = True
            self.strained.append(node)
        return 0

    cdef int learn_flags(self, DenyNode node) except -1:
        """Know for each class whether a deny more or less here can matter to it; nothing while there are many nodes."""
        cdef uint32_t room = node.flags_room
        if self.denies is not None:
            return 0
        if self.made > room:
            if not grown(<void **>&node.deaf, &room, self.made, 1):
                raise MemoryError()
            room = node.flags_room
            if not grown(<void **>&node.hitless, &room, self.made, 1):
                raise MemoryError()
            node.flags_room = room
        while node.known < self.made:
            self.set_flags(node, node.known)
            node.known += 1
        return 0

    cdef void set_flags(self, DenyNode node, uint32_t number) noexcept:
        cdef bint free_one = self.classes[number].place == NIL
        cdef bint hit = not free_one and self.has(number, node.number)
        node.hitless[number] = not hit
        node.deaf[number] = free_one or hit or not self.minds(number, node)

    cdef int levels(self, uint32_t number) except -1:
        """Work out `levels`: for each stage that needs the members as exceptions, the depth of the deepest node above that is hit."""
        cdef Class *one = &self.classes[number]
        cdef uint32_t i, k, count = 0
        cdef DenyNode node
        if one.stages >= 0:
            return 0
        if one.levels == NULL and one.count:
            one.levels = <uint32_t *>malloc(one.count * sizeof(uint32_t))
            if one.levels == NULL:
                raise MemoryError()
        for i in range(one.count):
            node = <DenyNode>self.nodes[one.hits[i]]
            if node.at < 0 or not is_above(self.tree, node.place, one.place):
                continue
            k = count
            while k and one.levels[k - 1] >> 16 > <uint32_t>node.at:
                k -= 1
            if k and one.levels[k - 1] >> 16 == <uint32_t>node.at:
                one.levels[k - 1] = max(one.levels[k - 1], <uint32_t>node.at << 16 | <uint32_t>node.depth)
                continue
            for j in range(count, k, -1):
                one.levels[j] = one.levels[j - 1]
            one.levels[k] = <uint32_t>node.at << 16 | <uint32_t>node.depth
            count += 1
        one.stages = count
        return 0
