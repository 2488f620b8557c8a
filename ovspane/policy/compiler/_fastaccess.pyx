# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Which access stage each deny stands in, and which exceptions it needs: the compiled twin of policy.compiler.access,
which explains it.

Entries are named by their number, which is also their handle in the indexes.

What differs from the twin is how a change finds what it changes. A deny that another of its node covers changes
nothing: what meets the one meets the other. An allow that meets one node more goes to the class of its old hits with
that node, without asking any index again, unless its level rises; one that meets one node less, to the class of its
hits without that node and without those too deep then. Allows of one class go the same way, so that is worked out once
a class.

Longer than 400 lines: nodes, classes and stages change together, entry by entry, by inlined C calls that do not cross
to another compiled module.

Bounds: each method takes time in proportion to the entries that it changes, plus a query or two of an index (see
_fastmatch). Loops `tick`, which lets other threads run every PATIENCE steps of at most 1 us or so: nobody waits for the
GIL longer than 5 ms, or than one query of one index takes (a millisecond for 100 000 matches). Invariants: those of the
twin; `hits` has room for all nodes; deaf and hitless flags are right for the classes below `known`.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from ovspane.policy.compiler._fastentries cimport ALLOW, DENY, Entry, emptied, grown, is_above, push
from ovspane._fastmatch_handles cimport place_of
from ovspane._fastmatch cimport MatchIndex
from ovspane._fastmatch_words cimport NIL, OVERLAPPING, resized

cdef enum:
    PATIENCE = 1024
    KEPT = 4096  # numbers for which a list is kept between changes


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


@cython.final
cdef class AccessStages:
    """`recoloured` is policy.compiler.colouring.recoloured; `many` and `names`: see _fastaccess.pxd."""

    def __cinit__(self, recoloured, uint32_t many, list names):
        self.recoloured, self.many, self.names = recoloured, many, names
        self.nodes, self.free_nodes, self.strained, self.bare = [], [], [], []
        self.allows = MatchIndex()
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
        free(self.met.at)
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

    # --- entries come and go

    cdef int enter(self, uint32_t entry) except -1:
        cdef Entry *one = &self.entries.at[entry]
        if one.says == DENY:
            return self.add_deny(entry, self.node_at(one.place))
        return self.add_allow(entry) if one.says == ALLOW else 0

    cdef int leave(self, uint32_t entry) except -1:
        cdef Entry *one = &self.entries.at[entry]
        if one.says == DENY:
            return self.remove_deny(entry, <DenyNode>self.nodes[one.home])
        return self.remove_allow(entry) if one.says == ALLOW else 0

    cdef int add_deny(self, uint32_t entry, DenyNode node) except -1:
        cdef const uint64_t *match = self.matches.at[self.entries.at[entry].match].words
        cdef bint covered = node.index.covers(match)
        cdef uint32_t i, one, number
        if not node.index.insert(entry, match, 0):
            raise MemoryError()
        if self.denies is not None and not self.denies.insert(entry, match, node.number):
            raise MemoryError()
        self.entries.at[entry].home = node.number
        self.link(entry, &node.first)
        node.used += 1
        self.tick(1)
        if covered or not self.allows.used:
            return 0
        self.learn_flags(node)
        self.find(node, match, node.deaf, node.known)
        self.change += 1
        for i in range(self.met.used):
            one = self.met.at[i]
            number = self.entries.at[one].home
            if not self.has(number, node.number) and self.minds(number, node):
                self.move(one, self.with_node(number, node, one))
        emptied(&self.met, KEPT)
        return 0

    cdef int remove_deny(self, uint32_t entry, DenyNode node) except -1:
        cdef const uint64_t *match = self.matches.at[self.entries.at[entry].match].words
        cdef uint32_t i, one, number
        self.unlink(entry, &node.first)
        node.used -= 1
        node.index.delete(place_of(&node.index.handles, entry))
        if self.denies is not None:
            self.denies.delete(place_of(&self.denies.handles, entry))
        if not node.used and not node.bare:
            node.bare = True
            self.bare.append(node)
        self.tick(1)
        if not self.allows.used or node.index.covers(match):
            return 0
        self.learn_flags(node)
        self.find(node, match, node.hitless, node.known)
        self.change += 1
        for i in range(self.met.used):
            one = self.met.at[i]
            number = self.entries.at[one].home
            if self.has(number, node.number) and not node.index.meets(self.matches.at[self.entries.at[one].match].words):
                self.move(one, self.without_node(number, node))
            self.tick(1)
        emptied(&self.met, KEPT)
        return 0

    cdef int find(self, DenyNode node, const uint64_t *match, const uint8_t *skip, uint32_t skips) except -1:
        """Fill `met` with the allows that meet a match, but those whose class is flagged in `skip`."""
        cdef Py_ssize_t count = self.allows.walk(OVERLAPPING, match, -1, skip, skips), i
        if count < 0 or not grown(<void **>&self.met.at, &self.met.room, <uint32_t>count, sizeof(uint32_t)):
            raise MemoryError()
        for i in range(count):
            self.met.at[i] = <uint32_t>self.allows.groups[self.allows.found[i] >> 32].handle[<uint32_t>self.allows.found[i]]
        self.met.used = <uint32_t>count
        self.allows.trim()
        return self.tick(<uint32_t>count // 16 + 1)

    cdef int add_allow(self, uint32_t entry) except -1:
        cdef Entry *one = &self.entries.at[entry]
        cdef uint32_t number
        self.hits_of(self.matches.at[one.match].words, one.place)
        number = self.class_of(one.place)
        if not self.allows.insert(entry, self.matches.at[one.match].words, number):
            if not self.classes[number].used:
                self.drop_class(number)
            raise MemoryError()
        one.home = number
        self.link(entry, &self.classes[number].first)
        self.classes[number].used += 1
        return self.tick(2)

    cdef int remove_allow(self, uint32_t entry) except -1:
        cdef uint32_t number = self.entries.at[entry].home
        self.allows.delete(place_of(&self.allows.handles, entry))
        self.unlink(entry, &self.classes[number].first)
        self.classes[number].used -= 1
        if not self.classes[number].used:
            self.drop_class(number)
        return self.tick(1)

    cdef int move(self, uint32_t entry, uint32_t number) except -1:
        """Put an allow into another class."""
        cdef uint32_t old = self.entries.at[entry].home
        place = place_of(&self.allows.handles, entry)
        self.allows.groups[place.group].tag[place.slot] = number
        self.unlink(entry, &self.classes[old].first)
        self.classes[old].used -= 1
        self.entries.at[entry].home = number
        self.link(entry, &self.classes[number].first)
        self.classes[number].used += 1
        if not self.classes[old].used:
            self.drop_class(old)
        self.mark(entry)
        return self.tick(1)

    cdef void link(self, uint32_t entry, uint32_t *first) noexcept:
        cdef Entry *one = &self.entries.at[entry]
        one.before, one.after = NIL, first[0]
        if first[0] != NIL:
            self.entries.at[first[0]].before = entry
        first[0] = entry

    cdef void unlink(self, uint32_t entry, uint32_t *first) noexcept:
        cdef Entry *one = &self.entries.at[entry]
        if one.after != NIL:
            self.entries.at[one.after].before = one.before
        if one.before != NIL:
            self.entries.at[one.before].after = one.after
        else:
            first[0] = one.after

    # --- deny nodes

    cdef DenyNode node_at(self, uint32_t place):
        if self.tree.at[place].deny != NIL:
            return <DenyNode>self.nodes[self.tree.at[place].deny]
        return self.new_node(place)

    cdef DenyNode new_node(self, uint32_t place):
        cdef DenyNode node = DenyNode(), other
        if not grown(<void **>&self.hits.at, &self.hits.room, len(self.nodes) + 2, sizeof(uint32_t)):
            raise MemoryError()
        node.index, node.name = MatchIndex(), self.names[place]
        node.place, node.depth, node.at, node.first = place, self.tree.at[place].depth, -1, NIL
        if self.free_nodes:
            node.number = self.free_nodes.pop()
            self.nodes[node.number] = node
        else:
            node.number = len(self.nodes)
            self.nodes.append(node)
        self.tree.at[place].deny = node.number
        self.live += 1
        self.strain(node)
        if self.live > self.many and self.denies is None:
            for other in self.nodes:
                if other is not None:
                    other.forget_flags()  # too much memory, and few allows to pass over
            self.index_all()
        return node

    cdef int index_all(self) except -1:
        """Make the one index over all denies."""
        cdef DenyNode node
        cdef uint32_t entry
        cdef MatchIndex index = MatchIndex()
        for node in self.nodes:
            entry = node.first if node is not None else NIL
            while entry != NIL:
                if not index.insert(entry, self.matches.at[self.entries.at[entry].match].words, node.number):
                    raise MemoryError()
                entry = self.entries.at[entry].after
                self.tick(1)
        self.denies = index
        return 0

    # --- what an allow meets

    cdef int hits_of(self, const uint64_t *match, uint32_t place) except -1:
        """Fill `hits`: the deny nodes above that the match meets, and others it meets that are as high."""
        cdef uint32_t above = self.tree.at[place].parent, number
        cdef int32_t level = -1
        self.hits.used = 0
        while above != NIL:
            number = self.tree.at[above].deny
            if number != NIL and (<DenyNode>self.nodes[number]).index.meets(match):
                self.hits.at[self.hits.used] = number
                self.hits.used += 1
                if level < 0:
                    level = self.tree.at[above].depth
            above = self.tree.at[above].parent
        if level >= 0:
            self.add_beside(match, place, -1, level)
        return 0

    cdef int add_beside(self, const uint64_t *match, uint32_t place, int32_t above, int32_t level) except -1:
        """Add to `hits` the nodes that the match meets which are not above it and at a depth in above+1 .. level; sort them."""
        cdef DenyNode node
        cdef Py_ssize_t count, i
        cdef uint32_t kept = self.hits.used
        if self.denies is None:
            for node in self.nodes:
                if node is not None and above < node.depth <= level and not is_above(self.tree, node.place, place):
                    if node.index.meets(match):
                        self.hits.at[self.hits.used] = node.number
                        self.hits.used += 1
        else:
            count = self.denies.walk(OVERLAPPING, match, -1, NULL, 0)
            if count < 0:
                raise MemoryError()
            found = {
                self.denies.groups[self.denies.found[i] >> 32].tag[<uint32_t>self.denies.found[i]] for i in range(count)
            }
            self.denies.trim()
            self.tick(<uint32_t>count // 8 + 1)
            for number in found:
                node = <DenyNode>self.nodes[number]
                if above < node.depth <= level and not is_above(self.tree, node.place, place):
                    self.hits.at[self.hits.used] = number
                    self.hits.used += 1
        self.sort_hits()
        return self.tick(self.hits.used - kept)

    cdef void sort_hits(self) noexcept:
        """By insertion where they are few, else by a heap (a list that a caller can make long costs no square)."""
        cdef uint32_t i, k, one
        cdef uint32_t *at = self.hits.at
        if self.hits.used > 64:
            ordered = sorted([at[i] for i in range(self.hits.used)])
            for i in range(self.hits.used):
                at[i] = ordered[i]
            return
        for i in range(1, self.hits.used):
            one, k = at[i], i
            while k and at[k - 1] > one:
                at[k] = at[k - 1]
                k -= 1
            at[k] = one

    cdef uint32_t with_node(self, uint32_t number, DenyNode node, uint32_t entry) except? 0xFFFFFFFE:
        """The class of an allow that meets one node more."""
        cdef Class *old = &self.classes[number]
        cdef uint32_t found, place = old.place
        cdef int32_t level = old.level
        if old.asked == self.change:
            return old.next_class
        memcpy(self.hits.at, old.hits, old.count * sizeof(uint32_t))
        self.hits.at[old.count] = node.number
        self.hits.used = old.count + 1
        if node.depth > level:  # it is above, and with a higher level others may matter: those which this very allow meets
            self.add_beside(self.matches.at[self.entries.at[entry].match].words, place, level, node.depth)
            return self.class_of(place)
        self.sort_hits()
        found = self.class_of(place)
        self.classes[number].next_class, self.classes[number].asked = found, self.change
        return found

    cdef uint32_t without_node(self, uint32_t number, DenyNode node) except? 0xFFFFFFFE:
        """The class of an allow that meets one node less."""
        cdef Class *old = &self.classes[number]
        cdef uint32_t i, found, place = old.place
        cdef int32_t level = old.level
        cdef DenyNode other
        if old.asked == self.change:
            return old.next_class
        if level == node.depth and is_above(self.tree, node.place, place):
            level = -1
            for i in range(old.count):
                other = <DenyNode>self.nodes[old.hits[i]]
                if other is not node and other.depth > level and is_above(self.tree, other.place, place):
                    level = other.depth
        self.hits.used = 0
        for i in range(old.count):
            other = <DenyNode>self.nodes[old.hits[i]]
            if other is not node and other.depth <= level:
                self.hits.at[self.hits.used] = old.hits[i]
                self.hits.used += 1
        found = self.class_of(place)
        self.classes[number].next_class, self.classes[number].asked = found, self.change
        return found

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

    # --- the colouring

    cdef dict clashes(self, list nodes):
        """The nodes that clash with each of these; none for those without denies."""
        cdef DenyNode node
        cdef uint32_t i
        cdef dict found = {}
        for node in nodes:
            if node is not None and node.used:
                found[node] = others = []
                for i in range(node.clashes_room):
                    if node.clashes[i].node != NIL and node.clashes[i].count:
                        others.append(self.nodes[node.clashes[i].node])
        return found

    cdef dict recolour(self, int limit):
        """New stages for the nodes that need one; None if there are too few. Changes nothing: see `settle`."""
        if not self.strained:
            return {}
        chosen = self.recoloured(self.clashes(self.strained), limit)
        return self.recoloured(self.clashes(self.nodes), limit, True) if chosen is None else chosen

    cdef int settle(self, dict stages) except -1:
        """Give nodes the stages that `recolour` chose, forget those without denies, and mark what may have changed by that."""
        cdef DenyNode node
        if stages:
            self.move_nodes(stages)
        for node in self.bare:
            node.bare = False
            if not node.used:
                self.tree.at[node.place].deny = NIL
                self.nodes[node.number] = None
                self.free_nodes.append(node.number)
                self.live -= 1
        for node in self.strained:
            node.strained = False
        self.bare.clear()
        self.strained.clear()
        if self.denies is not None and 2 * self.live <= self.many and len(self.nodes) <= 4 * self.many:
            self.denies = None
        return 0

    cdef int move_nodes(self, dict stages) except -1:
        cdef DenyNode node
        cdef uint32_t i, k, entry
        cdef uint8_t *moved = <uint8_t *>calloc(len(self.nodes), 1)
        cdef uint8_t how
        if moved == NULL:
            raise MemoryError()
        try:
            for node, stage in stages.items():
                if node.at == stage:
                    continue
                moved[node.number] = 1 if node.at < 0 else 3  # the allows of a new node were marked with its denies
                node.at = stage
                entry = node.first
                while entry != NIL:
                    self.mark(entry)
                    self.tick(1)
                    entry = self.entries.at[entry].after
            for i in range(self.made):
                how = 0
                for k in range(self.classes[i].count):
                    how |= moved[self.classes[i].hits[k]]
                if how:
                    self.classes[i].stages = -1
                entry = self.classes[i].first if how == 3 else NIL
                while entry != NIL:
                    self.mark(entry)
                    self.tick(1)
                    entry = self.entries.at[entry].after
                self.tick(1)
        finally:
            free(moved)
        return 0
