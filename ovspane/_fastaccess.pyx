# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Which access stage each deny stands in, and which exceptions it needs: the compiled twin of policy.access, which explains it.

Above: _fastcompile. Below: _fastclasses, _fastmatch, _fastentries. Entries are named by their number, which is also their handle in the indexes.

What differs from the twin is how a change finds what it changes. A deny that another of its node covers changes nothing: what meets
the one meets the other. An allow that meets one node more goes to the class of its old hits with that node, without asking any index
again, unless its level rises; one that meets one node less, to the class of its hits without that node and without those too deep
then. Allows of one class go the same way, so that is worked out once a class.

Bounds: each method takes time in proportion to the entries that it changes, plus a query or two of an index (see _fastmatch). Loops
`tick`, which lets other threads run every PATIENCE steps of at most 1 us or so: nobody waits for the GIL longer than 5 ms, or
than one query of one index takes (a millisecond for 100 000 matches).
Invariants: those of the twin and of _fastclasses.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ovspane._fastclasses cimport Class, Classes, DenyNode
from ovspane._fastentries cimport ALLOW, DENY, Entry, emptied, grown, is_above
from ovspane._fasthandles cimport place_of
from ovspane._fastmatch cimport MatchIndex
from ovspane._fastmatch_words cimport NIL, OVERLAPPING

cdef enum:
    KEPT = 4096  # numbers for which a list is kept between changes


@cython.final
cdef class AccessStages(Classes):
    """`recoloured` is policy.colouring.recoloured; `many` and `names`: see _fastaccess.pxd."""

    def __cinit__(self, recoloured, uint32_t many, list names):
        self.recoloured, self.many, self.names = recoloured, many, names
        self.free_nodes, self.bare = [], []
        self.allows = MatchIndex()

    def __dealloc__(self):
        free(self.met.at)

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
