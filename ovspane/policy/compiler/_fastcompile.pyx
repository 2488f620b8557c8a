# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiler's core in C arrays: requests in, rules that come and go out. The compiled twin of
policy.compiler.compile_plain.

The typed interface is in _fastcompile.pyi.

No Python object is kept for a request or a rule: what is resident is some 500 bytes in arrays, which garbage collection
never looks at. Rules are made for the delta that is returned, and are hidden from it too (they hold numbers, so they
are in no cycle).

A call has three phases. Staging reads the delta and asks for the matches; what goes wrong there is undone by forgetting
what was staged. Then the limit and the access stages change; if there are too few, what was done is done backwards. The last phase,
ranks and claims, can fail only for want of memory: then the core is `broken` and refuses all further work.

Other threads may run while a call does (see _fastaccess for how soon); they find the core `busy` and get RuntimeError.
Invariants: between calls each entry is claimed for, nothing is staged, and no entry is dirty.

Longer than 400 lines: one class whose methods work on the same C arrays; what needs no `self` of it lies in the .pxd
files that it cimports, and a method of another compiled class is not inlined.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from ovspane.policy.compiler._fastaccess cimport AccessStages, Class, DenyNode
from ovspane.policy.compiler._fastentries cimport (
    ACCESS, ALLOW, DENY, LIMIT, NOTHING, QUEUE, Entries, Entry, Matches, Numbers, Tree, drop_entry, drop_tree_node, emptied, grown,
    interned, new_entry, new_tree_node, push, release
)
from ovspane.packets._fastexpand cimport pack
from ovspane.policy.compiler._fastclaims cimport Flows, Key, Touch, drop_claim, find_key, forget_touch, put_claim
from ovspane._fastmatch_handles cimport Handles, Place, drop_place, place_of, put_place, room_for_one
from ovspane._fastmatch_words cimport NIL, WORDS, unpack_match

cdef extern from *:
    """
    /* A named tuple of n fields still to be filled. It will hold what can be in no cycle, so garbage collection need not see it. */
    static PyObject *ovspane_named(PyObject *type, Py_ssize_t n) {
        PyObject *made = ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, n);
        if (made) PyObject_GC_UnTrack(made);
        return made;
    }
    static void ovspane_field(PyObject *made, Py_ssize_t i, PyObject *value) { Py_INCREF(value); PyTuple_SET_ITEM(made, i, value); }
    """
    object named "ovspane_named"(object type, Py_ssize_t n)
    void field "ovspane_field"(object made, Py_ssize_t i, object value)

cdef extern from "Python.h":
    object from_bytes "_PyLong_FromByteArray"(const unsigned char *bytes, size_t n, int little_endian, int is_signed)

cdef enum:
    KEPT = 4096  # numbers for which a list is kept between calls

cdef struct Staged:
    int64_t request
    uint32_t first  # of its entries

cdef struct Rank:
    int64_t rate
    uint32_t first, used  # the entries that have it
    uint32_t label
    uint32_t next_free


cdef struct Wish:
    uint16_t index, priority
    uint8_t stage


cdef object as_int(const uint64_t *words):
    cdef unsigned char raw[8 * WORDS]
    cdef size_t size = WORDS, w, i
    while size and not words[size - 1]:
        size -= 1
    for w in range(size):
        for i in range(8):
            raw[8 * w + i] = <unsigned char>(words[w] >> 8 * i)
    return from_bytes(raw, 8 * size, 1, 0)


cdef class Core:
    cdef Entries entries
    cdef Matches matches
    cdef Tree tree
    cdef Flows flows
    cdef Handles requests  # request -> its first entry
    cdef AccessStages access
    cdef dict places  # name -> number in `tree`
    cdef list names
    cdef Rank *ranks
    cdef uint32_t ranks_made, ranks_room, ranks_free
    cdef dict rank_of  # from rate to number in `ranks`
    cdef object order  # policy.compiler.ranks.Ranks of the guarantees
    cdef object limits  # policy.compiler.limit_stages.LimitStages
    cdef list gone_limits, new_limits  # what was staged of limits
    cdef object moved_limits  # the requests whose limits may stand elsewhere; None: no limit was staged
    cdef object hooks, policy, locate, deny, reserve, ratelimit, rule, match
    cdef list effects, stage_names
    cdef uint32_t virtual, above_root
    cdef int stage_limit
    cdef dict chosen  # the new stages, between the access stages and `commit`
    cdef bint busy, broken  # `broken` is also set while a failure could not be undone
    cdef Staged *going
    cdef uint32_t going_used, going_room
    cdef Staged *coming
    cdef uint32_t coming_used, coming_room
    cdef Numbers gone, new  # entries
    cdef Numbers bare_places  # nodes of the tree where perhaps nothing stands
    cdef Wish *wishes
    cdef uint32_t wishes_used, wishes_room

    def __cinit__(self):
        self.entries.unused = self.matches.unused = self.tree.unused = NIL
        self.flows.free_key = self.flows.free_claim = self.ranks_free = NIL
        self.virtual = self.above_root = NIL

    def __init__(self, policy, hooks, bint default_deny, int stage_limit):
        cdef uint64_t words[2 * WORDS]
        if self.access is not None:
            raise RuntimeError("a core is made once")
        if not issubclass(hooks.rule, tuple) or not issubclass(hooks.match, tuple):
            raise TypeError("rules and matches must be named tuples")
        if not 0 <= stage_limit <= 0xFFFF:
            raise ValueError("the limit of stages is not in 0 .. 65535")
        self.policy, self.hooks, self.stage_limit = policy, hooks, stage_limit
        self.locate, self.rule, self.match = hooks.locate, hooks.rule, hooks.match
        self.deny, self.reserve, self.ratelimit = hooks.kinds
        self.order, self.rank_of = hooks.ranks(), {}
        self.limits, self.gone_limits, self.new_limits = hooks.limits(), [], []
        self.stage_names, self.effects = list(hooks.stages), list(hooks.effects)
        self.places, self.names = {}, []
        self.access = AccessStages(hooks.recoloured, hooks.many_nodes, self.names)
        self.access.entries, self.access.matches, self.access.tree = &self.entries, &self.matches, &self.tree
        if default_deny:
            memset(words, 0, sizeof(words))
            self.above_root = self.new_place(hooks.above_root, NIL, 0)
            self.virtual = self.stage_entry(self.above_root, words)
            self.entries.at[self.virtual].says, self.entries.at[self.virtual].fresh = DENY, False
            self.new.used = self.bare_places.used = 0
            self.access.enter(self.virtual)
            self.access.settle(self.access.recolour(0xFFFF))

    def __dealloc__(self):
        free(self.entries.at)
        free(self.matches.at)
        free(self.matches.head)
        free(self.tree.at)
        free(self.flows.key)
        free(self.flows.head)
        free(self.flows.claim)
        free(self.flows.touch)
        free(self.requests.places)
        free(self.ranks)
        free(self.going)
        free(self.coming)
        free(self.gone.at)
        free(self.new.at)
        free(self.bare_places.at)
        free(self.wishes)

    # --- the interface

    def update(self, delta, locations):
        self.begin()
        try:
            self.apply(delta, locations, self.hooks.limit_stages)
            self.commit()
            return self.changes([])
        finally:
            self.busy = False

    def replace(self, delta, locations):
        """As `update`; also the rules whose content changed, as they were."""
        cdef list replaced = []
        self.begin()
        try:
            self.apply(delta, locations, self.hooks.limit_stages)
            self.commit()
            return *self.changes(replaced), tuple(replaced)
        finally:
            self.busy = False

    def check(self, delta, locations, int stages, int limit_stages):
        cdef int limit = self.stage_limit
        self.begin()
        self.stage_limit = min(limit, stages)
        try:
            self.apply(delta, locations, limit_stages)
            self.undo()
        finally:
            self.stage_limit = limit
            self.busy = False

    def rules(self):
        """All rules, in no particular order."""
        cdef uint32_t i
        cdef list found = []
        self.begin()
        try:
            for i in range(self.flows.keys):
                if self.flows.key[i].match != NIL:
                    found.append(self.owned(i))
                    self.access.tick(1)
        finally:
            self.busy = False
        return found

    def rule_at(self, key):
        """The rule with this key (stage, index, priority, match), or None."""
        cdef uint64_t words[2 * WORDS]
        cdef uint32_t number, match
        self.begin()
        try:
            stage, index, priority, (value, mask) = key
            unpack_match(value, mask, words)
            match = interned(&self.matches, words)
            if match == NIL:
                raise MemoryError()
            try:
                number = NIL
                if index == <uint16_t>index and priority == <uint16_t>priority and stage == <uint8_t>stage:
                    number = find_key(&self.flows, match, stage, index, priority)
                return None if number == NIL else self.owned(number)
            finally:
                release(&self.matches, match)
        except (TypeError, ValueError, OverflowError):
            return None
        finally:
            self.busy = False

    def __len__(self):
        return self.flows.owned

    @property
    def stages(self):
        return 1 + max(self.deny_stages.values(), default=-1)

    @property
    def limit_spread(self):
        return self.limits.spread

    @property
    def limit_depth(self):
        return self.limits.depth

    @property
    def deny_stages(self):
        cdef DenyNode node
        return {node.name: node.at for node in self.access.nodes if node is not None and node.at >= 0}

    def __sizeof__(self):
        cdef size_t size = self.entries.room * sizeof(Entry) + self.flows.key_room * sizeof(Key) + self.requests.room * sizeof(Place)
        return object.__sizeof__(self) + size

    cdef int begin(self) except -1:
        if self.busy:
            raise RuntimeError("the compiler is at work in another thread")
        if self.broken or self.access is None:
            raise MemoryError("the compiler ran out of memory before: make another one")
        self.busy = True
        return 0

    # --- staging: nothing has changed yet

    cdef int apply(self, object delta, object locations, int limit_stages) except -1:
        """Take a delta into the stages, or raise and change nothing."""
        try:
            self.stage_removals(delta.removed)
            self.stage_additions(delta.added, locations)
            self.check_rates()
        except BaseException:
            self.forget_staged()
            raise
        self.broken = True  # unless all goes well
        if self.gone_limits or self.new_limits:
            self.moved_limits = self.limits.change(self.gone_limits, self.new_limits, limit_stages)
            if self.moved_limits is None:
                self.forget_staged()
                self.broken = False
                raise self.hooks.too_many_limits(limit_stages)
        self.move_entries()
        try:
            stages = self.access.recolour(self.stage_limit)
        except BaseException:
            self.undo()
            raise
        if stages is None:
            self.undo()
            raise self.hooks.too_many_stages(self.stage_limit)
        self.chosen = stages
        return 0

    cdef int stage_removals(self, object removed) except -1:
        cdef Place *place
        cdef int64_t number
        cdef uint32_t entry
        cdef set seen = set()
        cdef bint twice = False
        for request in removed:
            identity = request.id
            number = self.number_of(identity)
            place = place_of(&self.requests, number)
            if place == NULL:
                raise KeyError(identity)
            if len(removed) > 1:
                twice = twice or identity in seen
                seen.add(identity)
            if not grown(<void **>&self.going, &self.going_room, self.going_used + 1, sizeof(Staged)):
                raise MemoryError()
            self.going[self.going_used].request, self.going[self.going_used].first = number, place.group
            self.going_used += 1
            entry = place.group
            if entry != NIL and self.entries.at[entry].rated == LIMIT and not twice:
                self.gone_limits.append(identity)
            while entry != NIL and not twice:
                if not push(&self.gone, entry):
                    raise MemoryError()
                entry = self.entries.at[entry].sibling
            self.access.tick(1)
        if twice:
            raise ValueError("a request is twice in one half of a delta")
        return 0

    cdef int64_t number_of(self, object identity) except -1:
        if not 0 <= identity < 1 << 63:
            raise ValueError("a request's number is not in 0 .. 2**63-1")
        return identity

    cdef int stage_additions(self, object added, object locations) except -1:
        cdef set leaving = None
        cdef set seen
        cdef uint32_t i
        cdef int64_t number
        if len(added) > 1:
            seen = {request.id for request in added}
            if len(seen) < len(added):
                raise ValueError("a request is twice in one half of a delta")
        for request in added:
            number = self.number_of(request.id)
            if place_of(&self.requests, number) != NULL:
                if leaving is None:
                    leaving = {self.going[i].request for i in range(self.going_used)}
                if number not in leaving:
                    raise ValueError(f"request {number} is in the table already")
            self.stage_request(request, number, locations)
            self.access.tick(4)
        return 0

    cdef int stage_request(self, object request, int64_t number, object locations) except -1:
        cdef uint64_t words[2 * WORDS]
        cdef uint64_t narrow[8]
        cdef uint32_t entry = NIL, place = self.place_for(request.node), w
        cdef uint32_t first = NIL
        cdef object kind = request.kind, group = request.flowgroup
        cdef int64_t rate = request.rate, slot = request.slot
        cdef bint allows = request.allows
        cdef uint8_t says = DENY if kind is self.deny else ALLOW if allows and kind is not self.ratelimit else NOTHING
        cdef uint8_t rated = LIMIT if kind is self.ratelimit else QUEUE if kind is self.reserve and rate else 0
        cdef Entry *made
        cdef Staged *staged
        cdef list limited = []
        if not push(&self.bare_places, place):
            raise MemoryError()
        if not grown(<void **>&self.coming, &self.coming_room, self.coming_used + 1, sizeof(Staged)):
            raise MemoryError()
        memset(words, 0, sizeof(words))
        memset(narrow, 0, sizeof(narrow))
        if pack(group, narrow):
            for w in range(4):
                words[w], words[WORDS + w] = narrow[w], narrow[4 + w]
            matches = (None,)
        else:
            matches = self.locate(group, locations)
        for match in matches:
            if match is not None:
                value, mask = match
                unpack_match(value, mask, words)
            entry = self.stage_entry(place, words)
            made = &self.entries.at[entry]
            made.request, made.rate, made.slot, made.says, made.rated = number, rate, slot, says, rated
            made.sibling, first = first, entry
            if rated == LIMIT:
                limited.append(self.match(as_int(words), as_int(words + WORDS)) if match is None else match)
            self.access.tick(1)
        staged = &self.coming[self.coming_used]
        staged.request, staged.first = number, first
        self.coming_used += 1
        if limited:
            self.new_limits.append(self.hooks.new_limit(number, rate, tuple(limited)))
        return 0

    cdef uint32_t stage_entry(self, uint32_t place, const uint64_t *words) except? 0xFFFFFFFE:
        cdef uint32_t entry = new_entry(&self.entries)
        if entry == NIL:
            raise MemoryError()
        self.entries.at[entry].match = interned(&self.matches, words)
        if self.entries.at[entry].match == NIL or not push(&self.new, entry):
            if self.entries.at[entry].match != NIL:
                release(&self.matches, self.entries.at[entry].match)
            drop_entry(&self.entries, entry)
            raise MemoryError()
        self.entries.at[entry].place, self.entries.at[entry].fresh = place, True
        self.tree.at[place].uses += 1
        return entry

    cdef uint32_t place_for(self, object name) except? 0xFFFFFFFE:
        """The number of a node of the tree; its ancestors get one too. Raises KeyError, or CannotCompile for one too deep."""
        cdef uint32_t above, depth
        cdef list path = []
        found = self.places.get(name)
        if found is not None:
            return found
        nodes, at = self.policy.nodes, name
        while at is not None and at not in self.places:
            path.append(at)
            at = nodes[at].parent
            if len(path) > self.hooks.depth_limit + 1:
                raise self.hooks.too_deep(name)
        above = self.above_root if at is None else self.places[at]
        depth = 0 if above == NIL else self.tree.at[above].depth + 1
        if depth + len(path) - 1 > self.hooks.depth_limit:
            raise self.hooks.too_deep(name)
        for at in reversed(path):
            above = self.new_place(at, above, depth)
            depth += 1
        return above

    cdef uint32_t new_place(self, object name, uint32_t above, uint32_t depth) except? 0xFFFFFFFE:
        cdef uint32_t number
        if not push(&self.bare_places, NIL):
            raise MemoryError()
        number = new_tree_node(&self.tree, above, depth)
        self.bare_places.at[self.bare_places.used - 1] = number  # until something stands there
        if number == NIL:
            raise MemoryError()
        self.names.extend([None] * (number + 1 - len(self.names)))
        self.places[name], self.names[number] = number, name
        return number

    cdef int check_rates(self) except -1:
        cdef uint32_t i
        cdef Entry *entry
        if len(self.rank_of) + self.new.used > self.hooks.last_label:
            wanted = set()
            for i in range(self.new.used):
                entry = &self.entries.at[self.new.at[i]]
                if entry.rated == QUEUE and entry.rate not in self.rank_of:
                    wanted.add(entry.rate)
                self.access.tick(1)
            if len(self.rank_of) + len(wanted) > self.hooks.last_label:
                raise self.hooks.too_many_rates()
        return 0

    cdef int forget_staged(self) except -1:
        """Free the new entries, which stand nowhere (any more), and end the call."""
        cdef uint32_t i
        for i in range(self.new.used):
            self.free_entry(self.new.at[i])
        return self.end()

    cdef int free_entry(self, uint32_t number) except -1:
        cdef Entry *entry = &self.entries.at[number]
        release(&self.matches, entry.match)
        self.tree.at[entry.place].uses -= 1
        if not self.tree.at[entry.place].uses:
            push(&self.bare_places, entry.place)  # without memory for this it stays, nothing else
        drop_entry(&self.entries, number)
        return self.access.tick(1)

    cdef int end(self) except -1:
        """Forget what was staged and marked, and the nodes of the tree where nothing stands any more."""
        cdef uint32_t i, place, above
        for i in range(self.access.dirty.used):
            self.entries.at[self.access.dirty.at[i]].dirty = False
        for i in range(self.bare_places.used):
            place = self.bare_places.at[i]
            while place != NIL and self.names[place] is not None and not self.tree.at[place].uses and place != self.above_root:
                above = self.tree.at[place].parent
                del self.places[self.names[place]]
                self.names[place] = None
                drop_tree_node(&self.tree, place)
                place = above
        emptied(&self.gone, KEPT)
        emptied(&self.new, KEPT)
        emptied(&self.bare_places, KEPT)
        emptied(&self.access.dirty, KEPT)
        self.gone_limits, self.new_limits, self.moved_limits = [], [], None
        self.going_used = self.coming_used = 0
        if self.going_room > KEPT:
            free(self.going)
            self.going, self.going_room = NULL, 0
        if self.coming_room > KEPT:
            free(self.coming)
            self.coming, self.coming_room = NULL, 0
        return 0

    # --- the access stages

    cdef int move_entries(self) except -1:
        cdef uint32_t i
        cdef bint denies
        for i in range(self.gone.used):
            self.access.leave(self.gone.at[i])
        for denies in (True, False):  # an allow costs the least when the denies that it meets are there
            for i in range(self.new.used):
                if (self.entries.at[self.new.at[i]].says == DENY) == denies:
                    self.access.enter(self.new.at[i])
        return 0

    cdef int undo(self) except -1:
        cdef uint32_t i
        if self.moved_limits is not None:
            self.limits.undo()
        for i in range(self.new.used):
            self.access.leave(self.new.at[i])
        for i in range(self.gone.used):
            self.access.enter(self.gone.at[i])
        self.access.settle({})
        self.chosen = None
        self.forget_staged()
        self.broken = False
        return 0

    # --- ranks and claims

    cdef int commit(self) except -1:
        cdef uint32_t i, number
        self.access.settle(self.chosen)
        self.chosen = None
        if self.virtual != NIL:
            self.access.mark(self.virtual)
        for i in range(self.new.used):  # before the old ones are dropped: a user that moves keeps its ranks
            if self.entries.at[self.new.at[i]].rated == QUEUE:
                self.take_rank(self.new.at[i])
        for i in range(self.gone.used):
            self.drop_rank(self.gone.at[i])
            self.claim_none(self.gone.at[i])
            self.entries.at[self.gone.at[i]].alive = False
        for i in range(self.going_used):
            drop_place(&self.requests, place_of(&self.requests, self.going[i].request))
        for i in range(self.coming_used):
            if not room_for_one(&self.requests):
                raise MemoryError()
            put_place(&self.requests, self.coming[i].request, self.coming[i].first, 0)
        for request in self.moved_limits or ():
            self.stand(request)
        for i in range(self.access.dirty.used):
            number = self.access.dirty.at[i]
            if self.entries.at[number].alive and not self.entries.at[number].fresh:
                self.claim(number)
        for i in range(self.new.used):
            self.entries.at[self.new.at[i]].fresh = False
            self.claim(self.new.at[i])
        for i in range(self.gone.used):
            self.free_entry(self.gone.at[i])
        return self.end()

    cdef int stand(self, object request) except -1:
        """Note where the limit of a request stands now."""
        cdef Place *place = place_of(&self.requests, request)
        cdef uint32_t number
        cdef Entry *entry
        cdef bint metered
        cdef uint16_t stage = 0, priority = 0
        if place == NULL:
            return 0
        number = place.group
        standing = self.limits.standing(request)
        metered = standing is not None
        if metered:
            stage, priority = standing
        while number != NIL:
            entry = &self.entries.at[number]
            if entry.rated == LIMIT:
                entry.metered, entry.limit_stage, entry.limit_priority = metered, stage, priority
                self.access.mark(number)
            number = entry.sibling
            self.access.tick(1)
        return 0

    cdef int take_rank(self, uint32_t number) except -1:
        cdef Entry *entry = &self.entries.at[number]
        cdef uint32_t rank
        cdef Rank *taken
        cdef object found = self.rank_of.get(entry.rate), key
        if found is None:
            key = entry.rate
            rank = self.new_rank(key)
            self.rank_of[key] = rank
            for other in self.order.hold(key):
                self.relabel(self.rank_of[other], self.order[other])
            self.ranks[rank].label = self.order[key]
        else:
            rank = found
        taken = &self.ranks[rank]
        entry.rank, entry.rank_before, entry.rank_after = rank, NIL, taken.first
        if taken.first != NIL:
            self.entries.at[taken.first].rank_before = number
        taken.first = number
        taken.used += 1
        return self.access.tick(1)

    cdef uint32_t new_rank(self, int64_t rate) except? 0xFFFFFFFE:
        cdef uint32_t rank = self.ranks_free
        if rank != NIL:
            self.ranks_free = self.ranks[rank].first
        else:
            if not grown(<void **>&self.ranks, &self.ranks_room, self.ranks_made + 1, sizeof(Rank)):
                raise MemoryError()
            rank = self.ranks_made
            self.ranks_made += 1
        self.ranks[rank].rate, self.ranks[rank].first, self.ranks[rank].used = rate, NIL, 0
        return rank

    cdef int relabel(self, uint32_t rank, uint32_t label) except -1:
        """A rate's priority changed, to make room for another between."""
        cdef uint32_t number = self.ranks[rank].first
        self.ranks[rank].label = label
        while number != NIL:
            self.access.mark(number)
            self.access.tick(1)
            number = self.entries.at[number].rank_after
        return 0

    cdef int drop_rank(self, uint32_t number) except -1:
        cdef Entry *entry = &self.entries.at[number]
        cdef uint32_t rank = entry.rank
        if rank == NIL:
            return 0
        if entry.rank_after != NIL:
            self.entries.at[entry.rank_after].rank_before = entry.rank_before
        if entry.rank_before != NIL:
            self.entries.at[entry.rank_before].rank_after = entry.rank_after
        else:
            self.ranks[rank].first = entry.rank_after
        entry.rank = NIL
        self.ranks[rank].used -= 1
        if not self.ranks[rank].used:
            self.order.drop(entry.rate)
            del self.rank_of[entry.rate]
            self.ranks[rank].first, self.ranks_free = self.ranks_free, rank
        return 0

    cdef int wanted(self, uint32_t number) except -1:
        """Fill `wishes` with what an entry contributes to the table, given the stages, levels and ranks of now."""
        cdef Entry *entry = &self.entries.at[number]
        cdef DenyNode node
        cdef Class *one
        cdef int32_t i
        self.wishes_used = 0
        if entry.says == ALLOW:
            self.access.levels(entry.home)
            one = &self.access.classes[entry.home]
            for i in range(one.stages):  # just above the denies of that depth, below those of deeper nodes
                self.wish(ACCESS, one.levels[i] >> 16, 2 * (one.levels[i] & 0xFFFF) + 2)
        elif entry.says == DENY:
            node = <DenyNode>self.access.nodes[entry.home]
            self.wish(ACCESS, node.at, 2 * node.depth + 1)
        if entry.metered:
            self.wish(LIMIT, entry.limit_stage, entry.limit_priority)
        if entry.rank != NIL:
            self.wish(QUEUE, 0, self.ranks[entry.rank].label)
        return 0

    cdef int wish(self, uint8_t stage, uint16_t index, uint16_t priority) except -1:
        if not grown(<void **>&self.wishes, &self.wishes_room, self.wishes_used + 1, sizeof(Wish)):
            raise MemoryError()
        self.wishes[self.wishes_used].stage = stage
        self.wishes[self.wishes_used].index, self.wishes[self.wishes_used].priority = index, priority
        self.wishes_used += 1
        return 0

    cdef int claim(self, uint32_t number) except -1:
        """Replace what an entry claims by what it contributes now."""
        cdef uint32_t i, claim = self.entries.at[number].claims
        cdef const Key *key
        cdef Wish *wish
        self.wanted(number)
        i = self.wishes_used
        while i and claim != NIL:  # an entry's claims are listed the last one first
            key, wish = &self.flows.key[self.flows.claim[claim].key], &self.wishes[i - 1]
            if key.stage != wish.stage or key.index != wish.index or key.priority != wish.priority:
                break
            i -= 1
            claim = self.flows.claim[claim].next
        if not i and claim == NIL:
            return self.access.tick(1)
        self.claim_none(number)
        for i in range(self.wishes_used):
            wish = &self.wishes[i]
            if not put_claim(&self.flows, &self.entries, &self.matches, number, wish.stage, wish.index, wish.priority):
                raise MemoryError()
        return self.access.tick(self.wishes_used + 1)

    cdef int claim_none(self, uint32_t number) except -1:
        cdef uint32_t claim = self.entries.at[number].claims, after
        while claim != NIL:
            after = self.flows.claim[claim].next
            if not drop_claim(&self.flows, &self.entries, claim):
                raise MemoryError()
            claim = after
            self.access.tick(1)
        self.entries.at[number].claims = NIL
        return 0

    # --- rules

    cdef tuple changes(self, list replaced):
        """(added, removed): from what the touched keys had before to what they have now. Exceptions come before the drops that
        they lift and go after them, for a reader that does not apply a delta atomically. `replaced` gets what was in the place
        of those added that have one."""
        cdef list added = [], added_drops = [], removed = [], removed_drops = []
        cdef uint32_t i
        cdef Touch *was
        cdef const Key *key
        cdef const Entry *now
        cdef bint drop
        for i in range(self.flows.touched):
            was = &self.flows.touch[i]
            key = &self.flows.key[was.key]
            drop = key.stage == ACCESS and key.priority & 1
            if key.root == NIL:
                if was.there:
                    (removed_drops if drop else removed).append(self.rule_of(key, was.request, was.slot, was.rate))
            else:
                now = &self.entries.at[self.flows.claim[key.root].entry]
                if not was.there or was.request != now.request or (
                    key.stage != ACCESS and (was.slot != now.slot or was.rate != now.rate)
                ):
                    (added_drops if drop else added).append(self.rule_of(key, now.request, now.slot, now.rate))
                    if was.there:
                        replaced.append(self.rule_of(key, was.request, was.slot, was.rate))
            self.access.tick(1)
        for i in range(self.flows.touched):
            forget_touch(&self.flows, &self.matches, i)
        self.flows.touched = 0
        if self.flows.touch_room > KEPT:
            free(self.flows.touch)
            self.flows.touch, self.flows.touch_room = NULL, 0
        self.broken = False
        return (*added, *added_drops), (*removed_drops, *removed)

    cdef object owned(self, uint32_t number):
        """The rule of a key that has an owner."""
        cdef const Key *key = &self.flows.key[number]
        cdef const Entry *owner = &self.entries.at[self.flows.claim[key.root].entry]
        return self.rule_of(key, owner.request, owner.slot, owner.rate)

    cdef object rule_of(self, const Key *key, int64_t request, int64_t slot, int64_t rate):
        cdef const uint64_t *words = self.matches.at[key.match].words
        cdef object match = named(self.match, 2), rule = named(self.rule, 9)
        cdef bint access = key.stage == ACCESS
        field(match, 0, as_int(words))
        field(match, 1, as_int(words + WORDS))
        field(rule, 0, self.stage_names[key.stage])
        field(rule, 1, key.index)
        field(rule, 2, key.priority)
        field(rule, 3, match)
        field(rule, 4, self.effects[key.priority & 1 if access else key.stage + 1])
        field(rule, 5, request)
        field(rule, 6, 0 if access else slot)
        field(rule, 7, 0 if access else rate)
        field(rule, 8, 0)
        return rule
