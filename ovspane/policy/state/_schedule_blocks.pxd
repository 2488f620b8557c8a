"""The tree of blocks of the compiled schedule: breakpoints with totals and W, changed lazily. C only; see _schedule.pyx
for the idea.

Cost: O(log n) where few extremes change hands; at worst each block is measured once.

Invariants
  the first breakpoint is at `level_at`; breakpoints ascend strictly, within and between blocks; no block is empty
  a breakpoint is there iff a reservation starts or ends there (`refs` of them) or it is the first
  stored values are those of the block before the pending (shift, tilt) of its ancestors are added
  an extreme holds under each tilt in its interval (rounded inwards, since it is computed in floating point)

Longer than 400 lines: inline functions that call each other, which a .pxd file has to hold together.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove

from ovspane.policy.state._schedule_curve cimport (
    SLOTS,
    Block,
    Treap,
    area,
    fetch,
    fetch_all,
    i64,
    join,
    measure,
    move,
    wide,
)

cdef extern from *:
    """
    #include <stdlib.h>
    /* Blocks that are free at the moment, a chain by their first word, for all schedules. */
    static void *spare = NULL;
    static int spares = 0;
    /* Have `count` of them ready. 0: no memory. */
    static int blocks_ready(int count, size_t size) {
        while (spares < count) {
            void *b = aligned_alloc(64, size);
            if (!b) return 0;
            *(void **)b = spare;
            spare = b;
            spares++;
        }
        return 1;
    }
    static inline void *block_taken(void) {
        void *b = spare;
        spare = *(void **)b;
        spares--;
        return b;
    }
    static inline void block_released(void *b) {
        if (spares >= 64) {
            free(b);
            return;
        }
        *(void **)b = spare;
        spare = b;
        spares++;
    }
    """
    int blocks_ready(int count, size_t size) noexcept nogil
    void *block_taken() noexcept nogil
    void block_released(void *b) noexcept nogil

# ---- memory


cdef inline int provide(int count) except -1:
    """Have `count` blocks ready, so that a change never fails in the middle. Raises MemoryError."""
    if not blocks_ready(count, sizeof(Block)):
        raise MemoryError()
    return 0


cdef inline void free_all(Treap *t, Block *b) noexcept:
    if b is NULL:
        return
    free_all(t, b.left)
    free_all(t, b.right)
    free(b)


cdef inline Block *fresh_block(Treap *t) noexcept:
    """A block of those that were provided."""
    cdef Block *b = <Block *>block_taken()
    b.left = b.right = NULL
    b.base = b.shift = 0
    b.tilt = b.offset = 0
    b.count = 0
    b.own_stale = b.all_stale = False
    t.state ^= t.state << 13  # xorshift32: balance only, no answer depends on it
    t.state ^= t.state >> 17
    t.state ^= t.state << 5
    b.priority = t.state
    return b


cdef inline void pull(Treap *t, Block *b) noexcept:
    """The subtree's extremes from the children's and its own; the children have all that was pending."""
    b.all_stale = b.own_stale
    if b.left is not NULL:
        b.all = b.left.all
        b.all_stale |= b.left.all_stale
        join(&b.all, &b.own, t.bucket)
    else:
        b.all = b.own
    if b.right is not NULL:
        b.all_stale |= b.right.all_stale
        join(&b.all, &b.right.all, t.bucket)


cdef inline void lift_own(Treap *t, Block *b, wide shift, i64 tilt) noexcept:
    move(&b.own, shift, tilt, t.bucket)
    b.base += shift - area(tilt, b.first)
    b.offset += tilt


cdef inline void lift(Treap *t, Block *b, wide shift, i64 tilt) noexcept:
    """Change a whole subtree, lazily."""
    lift_own(t, b, shift, tilt)
    move(&b.all, shift, tilt, t.bucket)
    b.shift += shift
    b.tilt += tilt


cdef inline void press(Treap *t, Block *b) noexcept:
    """Hand what is pending to the children."""
    if b.tilt != 0 or b.shift != 0:
        if b.left is not NULL:
            lift(t, b.left, b.shift, b.tilt)
        if b.right is not NULL:
            lift(t, b.right, b.shift, b.tilt)
        b.tilt = 0
        b.shift = 0


cdef inline void bend_own(Treap *t, Block *b, wide shift, i64 tilt) noexcept:
    if not b.own_stale and (not t.bucket or b.own.least_tilt <= tilt <= b.own.most_tilt):
        lift_own(t, b, shift, tilt)
        return
    b.base += shift - area(tilt, b.first)
    b.offset += tilt
    measure(t, b)


cdef inline void bend(Treap *t, Block *b, wide shift, i64 tilt) noexcept:
    """Tilt a whole subtree; enter it where extremes change hands."""
    if b is NULL:
        return
    if not b.all_stale and (not t.bucket or b.all.least_tilt <= tilt <= b.all.most_tilt):
        lift(t, b, shift, tilt)
        return
    fetch_all(b.left)
    fetch_all(b.right)
    press(t, b)
    bend(t, b.left, shift, tilt)
    bend(t, b.right, shift, tilt)
    bend_own(t, b, shift, tilt)
    pull(t, b)


cdef inline void reserve(Treap *t, Block *b, i64 low, i64 high, i64 start, i64 end, i64 rate) noexcept:
    """Add `rate` on [start, end) to a subtree whose breakpoints lie in [low, high). Start and end are breakpoints."""
    if b is NULL or high <= start:
        return
    if low >= end and not b.all_stale:
        if t.bucket:
            lift(t, b, area(-rate, end - start), 0)
        return
    if low >= start and high <= end:
        bend(t, b, area(rate, start), rate)
        return
    fetch(b.left)
    fetch(b.right)
    press(t, b)
    reserve(t, b.left, low, b.first, start, end, rate)
    reserve(t, b.right, b.last + 1, high, start, end, rate)
    reserve_own(t, b, start, end, rate)
    pull(t, b)


cdef inline void reserve_own(Treap *t, Block *b, i64 start, i64 end, i64 rate) noexcept:
    cdef i64 first = b.first, last = b.last
    cdef int i
    if first >= start and last < end:
        bend_own(t, b, area(rate, start), rate)
    elif last < start:
        if b.own_stale:
            measure(t, b)
    elif first >= end:
        if t.bucket:
            bend_own(t, b, area(-rate, end - start), 0)
        elif b.own_stale:
            measure(t, b)
    else:
        if t.bucket and first > start:
            b.base -= area(rate, first - start)
        for i in range(b.count):
            if start <= b.at[i] < end:
                b.total[i] += rate
        measure(t, b)


# ---- the tree


cdef inline void split(Treap *t, Block *b, i64 at, Block **left, Block **right) noexcept:
    """The blocks that begin before `at`, and the others."""
    cdef Block *rest
    if b is NULL:
        left[0] = right[0] = NULL
        return
    press(t, b)
    if b.first < at:
        split(t, b.right, at, &rest, right)
        b.right = rest
        left[0] = b
    else:
        split(t, b.left, at, left, &rest)
        b.left = rest
        right[0] = b
    pull(t, b)


cdef inline Block *merge(Treap *t, Block *left, Block *right) noexcept:
    if left is NULL:
        return right
    if right is NULL:
        return left
    if left.priority > right.priority:
        press(t, left)
        left.right = merge(t, left.right, right)
        pull(t, left)
        return left
    press(t, right)
    right.left = merge(t, left, right.left)
    pull(t, right)
    return right


cdef inline Block *graft(Treap *t, Block *b, Block *new) noexcept:
    """The subtree with a new block in it."""
    if b is NULL or new.priority > b.priority:
        split(t, b, new.first, &new.left, &new.right)
        pull(t, new)
        return new
    press(t, b)
    if new.first < b.first:
        b.left = graft(t, b.left, new)
    else:
        b.right = graft(t, b.right, new)
    pull(t, b)
    return b


cdef inline Block *erase(Treap *t, Block *b, Block *gone) noexcept:
    """The subtree without the block `gone`, which is in it."""
    cdef Block *rest
    press(t, b)
    if b is gone:
        rest = merge(t, b.left, b.right)
        block_released(b)
        return rest
    if gone.first < b.first:
        b.left = erase(t, b.left, gone)
    else:
        b.right = erase(t, b.right, gone)
    pull(t, b)
    return b


cdef inline void refresh(Treap *t, Block *b, Block *changed) noexcept:
    """Measure the block `changed` again, and all above it."""
    press(t, b)
    if b is changed:
        measure(t, b)
    elif changed.first < b.first:
        refresh(t, b.left, changed)
    else:
        refresh(t, b.right, changed)
    pull(t, b)


cdef inline Block *holder(Treap *t, i64 at) noexcept:
    """The block in which `at` belongs: the last that begins at or before it; NULL if none does."""
    cdef Block *b = t.root
    cdef Block *found = NULL
    while b is not NULL:
        if b.first <= at:
            found = b
            b = b.right
        else:
            b = b.left
    return found


cdef inline Block *next_block(Treap *t, i64 at) noexcept:
    """The first block that begins after `at`, or NULL."""
    cdef Block *b = t.root
    cdef Block *found = NULL
    while b is not NULL:
        if b.first > at:
            found = b
            b = b.left
        else:
            b = b.right
    return found


cdef inline void descend(Treap *t, Block *to) noexcept:
    """Hand down all that is pending above a block, so that its numbers are the true ones."""
    cdef Block *b = t.root
    while b is not to:
        press(t, b)
        b = b.left if to.first < b.first else b.right


cdef inline int slot_of(Treap *t, const Block *b, i64 at) noexcept:
    """The last slot at or before `at` of a block that begins at or before it."""
    cdef int low = 0, high = b.count, middle
    while high - low > 1:
        middle = (low + high) >> 1
        if b.at[middle] <= at:
            low = middle
        else:
            high = middle
    return low


cdef inline Block *divide(Treap *t, Block *b, i64 at) noexcept:
    """Give half of a full block to a new one after it, and return the one in which `at` belongs."""
    cdef Block *new = fresh_block(t)
    cdef int keep = SLOTS // 2, i
    descend(t, b)
    new.base = b.base
    for i in range(keep):
        new.base += area(t.rate_in - b.total[i] - b.offset, b.at[i + 1] - b.at[i])
    new.count = b.count - keep
    new.offset = b.offset
    memcpy(new.at, b.at + keep, new.count * sizeof(i64))
    memcpy(new.total, b.total + keep, new.count * sizeof(i64))
    memcpy(new.refs, b.refs + keep, new.count * sizeof(uint32_t))
    b.count = keep
    measure(t, b)
    measure(t, new)
    t.root = graft(t, t.root, new)
    return new if new.first <= at else b


cdef inline void mark(Treap *t, i64 at) noexcept:
    """Have a breakpoint at `at`, one reference more; it leaves stale extremes behind, which `_reserve` makes right."""
    cdef Block *b = holder(t, at)
    cdef Block *above
    cdef int i = slot_of(t, b, at)
    if b.at[i] == at:
        b.refs[i] += 1
        return
    if b.count == SLOTS:
        b = divide(t, b, at)
        i = slot_of(t, b, at)
    i += 1
    memmove(b.at + i + 1, b.at + i, (b.count - i) * sizeof(i64))
    memmove(b.total + i + 1, b.total + i, (b.count - i) * sizeof(i64))
    memmove(b.refs + i + 1, b.refs + i, (b.count - i) * sizeof(uint32_t))
    b.at[i] = at
    b.total[i] = b.total[i - 1]
    b.refs[i] = 1
    b.count += 1
    b.last = b.at[b.count - 1]
    b.own_stale = b.all_stale = True
    above = t.root
    while above is not b:
        above.all_stale = True
        above = above.left if b.first < above.first else above.right


cdef inline void drop_slot(Treap *t, Block *b, int i) noexcept:
    """Take a breakpoint out of a block's arrays; it has others. `_refresh` does the rest."""
    if i == 0:
        b.base += area(t.rate_in - b.total[0] - b.offset, b.at[1] - b.first)
    b.count -= 1
    memmove(b.at + i, b.at + i + 1, (b.count - i) * sizeof(i64))
    memmove(b.total + i, b.total + i + 1, (b.count - i) * sizeof(i64))
    memmove(b.refs + i, b.refs + i + 1, (b.count - i) * sizeof(uint32_t))
    b.first = b.at[0]
    b.last = b.at[b.count - 1]


cdef inline void unmark(Treap *t, i64 at) noexcept:
    """One reference to the breakpoint at `at` less; without any, it goes."""
    cdef Block *b = holder(t, at)
    cdef Block *near
    cdef int i = slot_of(t, b, at)
    b.refs[i] -= 1
    if b.refs[i]:
        return
    if b.count == 1:
        t.root = erase(t, t.root, b)
        return
    drop_slot(t, b, i)
    refresh(t, t.root, b)
    if b.count < SLOTS // 2:
        near = next_block(t, b.first)
        if near is not NULL and absorb(t, b, near):
            return
        near = holder(t, b.first - 1)
        if near is not NULL:
            absorb(t, near, b)


cdef inline bint absorb(Treap *t, Block *b, Block *next) noexcept:
    """Take the block after `b` into it, if that leaves room to grow."""
    cdef int i
    if b.count + next.count > SLOTS * 3 // 4:
        return False
    descend(t, b)
    descend(t, next)
    for i in range(next.count):
        b.at[b.count + i] = next.at[i]
        b.total[b.count + i] = next.total[i] + next.offset - b.offset
        b.refs[b.count + i] = next.refs[i]
    i = next.count
    t.root = erase(t, t.root, next)
    b.count += i
    refresh(t, t.root, b)
    return True


cdef inline bint marked(Treap *t, i64 at) noexcept:
    cdef Block *b = holder(t, at)
    return b.at[slot_of(t, b, at)] == at


cdef inline i64 count_of(Treap *t, Block *b) noexcept:
    return 0 if b is NULL else b.count + count_of(t, b.left) + count_of(t, b.right)


cdef inline i64 blocks_of(Treap *t, Block *b) noexcept:
    return 0 if b is NULL else 1 + blocks_of(t, b.left) + blocks_of(t, b.right)
