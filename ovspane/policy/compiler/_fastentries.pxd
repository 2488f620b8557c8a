"""What the compiled compiler keeps of requests: entries (one match of one request), the matches, and the nodes of the
policy tree.

Inline functions only. All live in arrays and name each other by number; a pointer into an array holds until something
is added to it. The value NIL (no number) is also what says "no memory".

Invariants: equal matches have one number, and `uses` counts who names it; a tree node's `uses` counts entries and
children, so what has none stands alone and is freed; an entry's `home` is the class of an allow and the node number of
a deny.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from ovspane._fastmatch_words cimport NIL, WORDS, hashed, resized

cdef enum Says:
    NOTHING = 0
    ALLOW = 1
    DENY = 2

cdef enum Stage:  # the numbers are those of policy.model.table.Stage
    ACCESS = 0
    LIMIT = 1
    QUEUE = 2

cdef struct Entry:
    int64_t request, rate, slot
    uint32_t match, place
    uint32_t home
    uint32_t before, after  # in the list of its home
    uint32_t rank, rank_before, rank_after  # `rank` is NIL if there is no guarantee to install
    uint32_t claims  # the first of its claims
    uint32_t sibling  # the next entry of the same request; of a free entry, the next free one
    uint8_t says
    uint8_t rated  # LIMIT or QUEUE, or 0
    uint8_t alive, dirty, fresh
    uint8_t metered  # of a limit: it has a rule, in this stage, with this priority
    uint16_t limit_stage, limit_priority

cdef struct Entries:
    Entry *at
    uint32_t made, room, unused

cdef struct Interned:
    uint64_t words[2 * WORDS]
    uint32_t uses
    uint32_t chain  # of its bucket; of a free one, the next free one

cdef struct Matches:
    Interned *at
    uint32_t made, room, unused, used
    uint32_t *head
    uint32_t buckets  # a power of two

cdef struct TreeNode:
    uint32_t parent  # NIL: the highest
    uint32_t jump  # an ancestor far above: any ancestor is a logarithmic number of steps away
    uint32_t depth, uses
    uint32_t deny  # the number of its deny node, or NIL

cdef struct Tree:
    TreeNode *at
    uint32_t made, room, unused

cdef struct Numbers:
    uint32_t *at
    uint32_t used, room


cdef inline bint grown(void **block, uint32_t *room, uint32_t wanted, size_t width) noexcept nogil:
    """Give an array room for `wanted` elements; False if there is no memory (or there would be more than numbers)."""
    cdef uint64_t more = max(<uint64_t>16, <uint64_t>2 * room[0])
    if wanted <= room[0]:
        return True
    if more < wanted:
        more = wanted
    if more > 0x7FFFFFFF or not resized(block, <size_t>more * width):
        return False
    room[0] = <uint32_t>more
    return True


cdef inline bint push(Numbers *numbers, uint32_t number) noexcept nogil:
    if not grown(<void **>&numbers.at, &numbers.room, numbers.used + 1, sizeof(uint32_t)):
        return False
    numbers.at[numbers.used] = number
    numbers.used += 1
    return True


cdef inline void emptied(Numbers *numbers, uint32_t kept) noexcept nogil:
    """Forget all, and give memory for more than `kept` back."""
    numbers.used = 0
    if numbers.room > kept:
        free(numbers.at)
        numbers.at, numbers.room = NULL, 0


# --- entries

cdef inline uint32_t new_entry(Entries *entries) noexcept nogil:
    cdef uint32_t number = entries.unused
    if number != NIL:
        entries.unused = entries.at[number].sibling
    else:
        if not grown(<void **>&entries.at, &entries.room, entries.made + 1, sizeof(Entry)):
            return NIL
        number = entries.made
        entries.made += 1
    memset(&entries.at[number], 0, sizeof(Entry))
    entries.at[number].alive = True
    entries.at[number].home = entries.at[number].before = entries.at[number].after = NIL
    entries.at[number].rank = entries.at[number].claims = entries.at[number].sibling = NIL
    return number


cdef inline void drop_entry(Entries *entries, uint32_t number) noexcept nogil:
    entries.at[number].alive = False
    entries.at[number].sibling = entries.unused
    entries.unused = number


# --- matches

cdef inline uint32_t match_bucket(const Matches *matches, const uint64_t *words) noexcept nogil:
    cdef uint64_t mixed = hashed(words, words + WORDS, WORDS)
    return <uint32_t>(mixed ^ hashed(words + WORDS, words + WORDS, WORDS) * 3) & (matches.buckets - 1)


cdef inline bint rebucket_matches(Matches *matches, uint32_t buckets) noexcept nogil:
    cdef uint32_t i, b
    if not resized(<void **>&matches.head, <size_t>buckets * sizeof(uint32_t)):
        return False
    matches.buckets = buckets
    memset(matches.head, 0xFF, <size_t>buckets * sizeof(uint32_t))
    for i in range(matches.made):
        if matches.at[i].uses:
            b = match_bucket(matches, matches.at[i].words)
            matches.at[i].chain = matches.head[b]
            matches.head[b] = i
    return True


cdef inline uint32_t interned(Matches *matches, const uint64_t *words) noexcept nogil:
    """The number of a match, with one use more."""
    cdef uint32_t number, b
    if matches.used >= matches.buckets and not rebucket_matches(matches, max(<uint32_t>16, 2 * matches.buckets)):
        return NIL
    b = match_bucket(matches, words)
    number = matches.head[b]
    while number != NIL:
        if memcmp(matches.at[number].words, words, sizeof(matches.at[number].words)) == 0:
            matches.at[number].uses += 1
            return number
        number = matches.at[number].chain
    number = matches.unused
    if number != NIL:
        matches.unused = matches.at[number].chain
    else:
        if not grown(<void **>&matches.at, &matches.room, matches.made + 1, sizeof(Interned)):
            return NIL
        number = matches.made
        matches.made += 1
    memcpy(matches.at[number].words, words, sizeof(matches.at[number].words))
    matches.at[number].uses = 1
    matches.at[number].chain = matches.head[b]
    matches.head[b] = number
    matches.used += 1
    return number


cdef inline void release(Matches *matches, uint32_t number) noexcept nogil:
    """One use less; the last one frees it."""
    cdef uint32_t *link
    matches.at[number].uses -= 1
    if matches.at[number].uses:
        return
    link = &matches.head[match_bucket(matches, matches.at[number].words)]
    while link[0] != number:
        link = &matches.at[link[0]].chain
    link[0] = matches.at[number].chain
    matches.at[number].chain = matches.unused
    matches.unused = number
    matches.used -= 1


# --- tree nodes

cdef inline uint32_t new_tree_node(Tree *tree, uint32_t parent, uint32_t depth) noexcept nogil:
    cdef uint32_t number = tree.unused, far
    cdef TreeNode *node
    if number != NIL:
        tree.unused = tree.at[number].parent
    else:
        if not grown(<void **>&tree.at, &tree.room, tree.made + 1, sizeof(TreeNode)):
            return NIL
        number = tree.made
        tree.made += 1
    node = &tree.at[number]
    node.parent, node.depth, node.uses, node.deny, node.jump = parent, depth, 0, NIL, number
    if parent != NIL:  # jumps of equal length are joined to one of twice the length (Myers, 1983)
        tree.at[parent].uses += 1
        far = tree.at[parent].jump
        node.jump = parent
        if tree.at[parent].depth - tree.at[far].depth == tree.at[far].depth - tree.at[tree.at[far].jump].depth:
            node.jump = tree.at[far].jump
    return number


cdef inline void drop_tree_node(Tree *tree, uint32_t number) noexcept nogil:
    if tree.at[number].parent != NIL:
        tree.at[tree.at[number].parent].uses -= 1
    tree.at[number].parent = tree.unused
    tree.unused = number


cdef inline bint is_above(const Tree *tree, uint32_t ancestor, uint32_t node) noexcept nogil:
    """True iff it is a proper ancestor."""
    cdef uint32_t depth = tree.at[ancestor].depth
    if depth >= tree.at[node].depth:
        return False
    while tree.at[node].depth > depth:
        node = tree.at[node].jump if tree.at[tree.at[node].jump].depth >= depth else tree.at[node].parent
    return node == ancestor
