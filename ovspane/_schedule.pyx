# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reservations over time in O(log n): totals with range-add and range-max, and a token bucket with lazy tilts. Compiled.

Above: policy.schedule, the only importer; policy.schedule_plain is its plain twin. Below: _schedule_curve.pxd. Interface: _schedule.pyi.

Idea. Let W(t) be the integral of (fill - total) over time. The bucket's level is W(t) + min(x0, cap - max W up to t), where
level = x0 + W at the start; it never runs dry iff the greatest fall of W (from a peak to a later dip) is at most cap, the lowest W
is at least -x0, and the last net rate is not negative. A reservation of rate r on [s, e) adds r to the totals there, tilts W by
-r (t - s) there and lowers it by r (e - s) after: affine changes, kept lazily on a tree.

Structure. A treap of blocks of up to SLOTS breakpoints: small schedules are one or few short arrays, large ones have a tree
of a few thousand nodes that stays in the cache. Each block has the extremes of its own breakpoints and of its subtree: greatest and
least total, peak and dip of W, the greatest fall. A tilt moves breakpoints by different amounts, so the extremes may change hands:
with them goes the interval of further tilts under which they certainly do not (`least_tilt` .. `most_tilt`). A tilt inside the
interval is O(1); outside of it, the subtree is entered. Questions change nothing: they carry the tilt of the reservation asked for
down with the pending ones.

Cost: O(log n) where few extremes change hands; at worst each block is entered once, n / SLOTS short loops.

Invariants
  the first breakpoint is at `level_at`; breakpoints ascend strictly, within and between blocks; no block is empty
  a breakpoint is there iff a reservation starts or ends there (`refs` of them) or it is the first
  stored values are those of the block before the pending (shift, tilt) of its ancestors are added
  an extreme holds under each tilt in its interval (rounded inwards, since it is computed in floating point)
Bounds: instants within +-2**55 ms, rates and their sum up to 2**60 bit/s, so each W is within 2**118: 128 bits suffice.
"""

from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove

from ovspane._schedule_curve cimport (
    ANY,
    NEVER,
    SLOTS,
    Block,
    Extremes,
    Probe,
    area,
    both,
    fetch,
    floored,
    high_half,
    i64,
    join,
    joined,
    later_dip,
    later_peak,
    less,
    level_of,
    low_half,
    move,
    narrow,
    rival,
    see,
    see_all,
    wide,
)

cdef extern from "<stdlib.h>":
    void *aligned_alloc(size_t alignment, size_t size) nogil

#: bounds, see above: instants (ms), a rate and the sum of all (bit/s)
LATEST = 1 << 55
RATES = 1 << 60
cdef i64 LAST = (<i64>1) << 55
cdef i64 MOST = (<i64>1) << 60


# ---- memory: blocks that are free at the moment, a chain by `left`, for all schedules

cdef Block *spare = NULL
cdef int spares = 0


cdef int provide(int count) except -1:
    """Have `count` blocks ready, so that a change never fails in the middle. Raises MemoryError."""
    global spare, spares
    cdef Block *b
    while spares < count:
        b = <Block *>aligned_alloc(64, sizeof(Block))
        if b is NULL:
            raise MemoryError()
        b.left = spare
        spare = b
        spares += 1
    return 0


cdef inline Block *taken() noexcept:
    global spare, spares
    cdef Block *b = spare
    spare = b.left
    spares -= 1
    return b


cdef inline void release(Block *b) noexcept:
    global spare, spares
    if spares >= 64:
        free(b)
        return
    b.left = spare
    spare = b
    spares += 1


# ---- numbers from Python


cdef i64 clipped(object value, str what) except? -1:
    """An int, or where it is beyond 2**61 either way, that."""
    cdef int overflow = 0
    cdef long long out
    if not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    out = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow > 0 or (overflow == 0 and out > NEVER):
        return NEVER
    if overflow < 0 or out < -NEVER:
        return -NEVER
    return out


cdef i64 number(object value, i64 bound, str what) except? -1:
    """An int within +-bound. Raises TypeError, ValueError."""
    cdef i64 out = clipped(value, what)
    if out > bound or out < -bound:
        raise ValueError(f"{what} is out of bounds")
    return out


cdef inline wide widened(object value):
    """An int of at most 127 bits."""
    return joined(<i64>(value >> 64), <uint64_t>(value & 0xFFFFFFFFFFFFFFFF))


cdef inline object as_int(wide value):
    return (<object>high_half(value) << 64) | <object>low_half(value)


cdef uint32_t seeds_made = 0


cdef uint32_t fresh_seed() noexcept:
    """Another one for each ledger, and the same ones in each process: the same questions take the same course."""
    global seeds_made
    seeds_made = <uint32_t>(seeds_made + <uint32_t>2654435769u)
    return seeds_made | 1


cdef class Ledger:
    """The reservations of one share's subtree over time. See _schedule.pyi."""

    skips = True

    cdef readonly str share
    cdef readonly object top, capacity, fill
    cdef readonly i64 least
    cdef readonly i64 level_at
    cdef readonly bint bucket_matters, limits
    cdef Block *root
    cdef uint32_t state
    cdef i64 most  # top, or MOST
    cdef i64 rate_in  # fill
    cdef i64 booked  # the sum of all rates
    cdef i64 forever  # the sum of those without an end: what is reserved after the last breakpoint
    cdef wide cap, x0
    cdef bint bucket

    def __cinit__(self, str share not None, top=None, least=0, capacity=None, fill=None, level=0, level_at=0):
        self.root = NULL
        self.booked = self.forever = 0
        self.state = fresh_seed()
        cdef i64 at = number(level_at, LAST, "an instant")
        self.least = number(least, MOST, "a rate")
        self.most = MOST if top is None else number(top, MOST, "a rate")
        self.rate_in = 0 if fill is None else number(fill, MOST, "a rate")
        if self.least < 0 or self.most < 0 or self.rate_in < 0:
            raise ValueError("a rate is out of bounds")
        if capacity is not None and number(capacity, MOST, "a capacity") < 0:
            raise ValueError("a capacity is out of bounds")
        self.bucket = fill is not None and capacity is not None and (top is None or fill < top)
        self.bucket_matters = self.bucket
        self.limits = top is not None or self.least > 0 or self.bucket
        self.share, self.top, self.capacity, self.fill = share, top, capacity, fill
        self.cap = widened(capacity * 1000) if self.bucket else 0
        self.x0 = self._level(level)
        self.level_at = at
        provide(1)
        self.root = self._block()
        self.root.at[0] = at
        self.root.total[0] = 0
        self.root.refs[0] = 0
        self.root.count = 1
        self._measure(self.root)
        self._pull(self.root)

    def __dealloc__(self):
        self._free(self.root)

    cdef void _free(self, Block *b) noexcept:
        if b is NULL:
            return
        self._free(b.left)
        self._free(b.right)
        free(b)

    cdef wide _level(self, object level) except? -1:
        """A level as given, from empty to full: the closed form of the level needs that (engine.md, section 7)."""
        if not isinstance(level, int):
            raise TypeError(f"a level must be an int, not {type(level).__name__}")
        if not self.bucket or level < 0:
            return 0
        return self.cap if level >= as_int(self.cap) else widened(level)

    # ---- blocks

    cdef Block *_block(self) noexcept:
        """A block of those that were provided."""
        cdef Block *b = taken()
        b.left = b.right = NULL
        b.base = b.shift = 0
        b.tilt = b.offset = 0
        b.count = 0
        b.own_stale = b.all_stale = False
        self.state ^= self.state << 13  # xorshift32: balance only, no answer depends on it
        self.state ^= self.state >> 17
        self.state ^= self.state << 5
        b.priority = self.state
        return b

    cdef void _measure(self, Block *b) noexcept:
        """The extremes of a block's own breakpoints, by looking at each; its arrays may have changed."""
        cdef Extremes *e = &b.own
        cdef int i
        cdef wide w = b.base
        cdef i64 total
        b.first = b.at[0]
        b.last = b.at[b.count - 1]
        e.top = e.low = b.total[0] + b.offset
        for i in range(1, b.count):
            total = b.total[i] + b.offset
            if total > e.top:
                e.top = total
            elif total < e.low:
                e.low = total
        b.own_stale = False
        if not self.bucket:
            return
        e.peak_at = e.dip_at = e.from_at = e.to_at = b.first
        e.peak = e.dip = w
        e.fall = 0
        e.least_tilt = -ANY
        e.most_tilt = ANY
        for i in range(1, b.count):
            w += area(self.rate_in - b.total[i - 1] - b.offset, b.at[i] - b.at[i - 1])
            rival(e, e.peak_at, b.at[i], e.peak - w)
            later_peak(e, b.at[i], w)
            later_dip(e, b.at[i], w)

    cdef void _pull(self, Block *b) noexcept:
        """The subtree's extremes from the children's and its own; the children have all that was pending."""
        b.all_stale = b.own_stale
        if b.left is not NULL:
            b.all = b.left.all
            b.all_stale |= b.left.all_stale
            join(&b.all, &b.own, self.bucket)
        else:
            b.all = b.own
        if b.right is not NULL:
            b.all_stale |= b.right.all_stale
            join(&b.all, &b.right.all, self.bucket)

    cdef inline void _lift_own(self, Block *b, wide shift, i64 tilt) noexcept:
        move(&b.own, shift, tilt, self.bucket)
        b.base += shift - area(tilt, b.first)
        b.offset += tilt

    cdef inline void _lift(self, Block *b, wide shift, i64 tilt) noexcept:
        """Change a whole subtree, lazily."""
        self._lift_own(b, shift, tilt)
        move(&b.all, shift, tilt, self.bucket)
        b.shift += shift
        b.tilt += tilt

    cdef inline void _press(self, Block *b) noexcept:
        """Hand what is pending to the children."""
        if b.tilt != 0 or b.shift != 0:
            if b.left is not NULL:
                self._lift(b.left, b.shift, b.tilt)
            if b.right is not NULL:
                self._lift(b.right, b.shift, b.tilt)
            b.tilt = 0
            b.shift = 0

    cdef void _bend_own(self, Block *b, wide shift, i64 tilt) noexcept:
        if not b.own_stale and (not self.bucket or b.own.least_tilt <= tilt <= b.own.most_tilt):
            self._lift_own(b, shift, tilt)
            return
        b.base += shift - area(tilt, b.first)
        b.offset += tilt
        self._measure(b)

    cdef void _bend(self, Block *b, wide shift, i64 tilt) noexcept:
        """Tilt a whole subtree; enter it where extremes change hands."""
        if b is NULL:
            return
        if not b.all_stale and (not self.bucket or b.all.least_tilt <= tilt <= b.all.most_tilt):
            self._lift(b, shift, tilt)
            return
        self._press(b)
        self._bend(b.left, shift, tilt)
        self._bend(b.right, shift, tilt)
        self._bend_own(b, shift, tilt)
        self._pull(b)

    cdef void _reserve(self, Block *b, i64 low, i64 high, i64 start, i64 end, i64 rate) noexcept:
        """Add `rate` on [start, end) to a subtree whose breakpoints lie in [low, high). Start and end are breakpoints."""
        if b is NULL or high <= start:
            return
        if low >= end and not b.all_stale:
            if self.bucket:
                self._lift(b, area(-rate, end - start), 0)
            return
        if low >= start and high <= end:
            self._bend(b, area(rate, start), rate)
            return
        fetch(b.left)
        fetch(b.right)
        self._press(b)
        self._reserve(b.left, low, b.first, start, end, rate)
        self._reserve(b.right, b.last + 1, high, start, end, rate)
        self._reserve_own(b, start, end, rate)
        self._pull(b)

    cdef void _reserve_own(self, Block *b, i64 start, i64 end, i64 rate) noexcept:
        cdef i64 first = b.first, last = b.last
        cdef int i
        if first >= start and last < end:
            self._bend_own(b, area(rate, start), rate)
        elif last < start:
            if b.own_stale:
                self._measure(b)
        elif first >= end:
            if self.bucket:
                self._bend_own(b, area(-rate, end - start), 0)
            elif b.own_stale:
                self._measure(b)
        else:
            if self.bucket and first > start:
                b.base -= area(rate, first - start)
            for i in range(b.count):
                if start <= b.at[i] < end:
                    b.total[i] += rate
            self._measure(b)

    # ---- the tree

    cdef void _split(self, Block *b, i64 at, Block **left, Block **right) noexcept:
        """The blocks that begin before `at`, and the others."""
        cdef Block *rest
        if b is NULL:
            left[0] = right[0] = NULL
            return
        self._press(b)
        if b.first < at:
            self._split(b.right, at, &rest, right)
            b.right = rest
            left[0] = b
        else:
            self._split(b.left, at, left, &rest)
            b.left = rest
            right[0] = b
        self._pull(b)

    cdef Block *_merge(self, Block *left, Block *right) noexcept:
        if left is NULL:
            return right
        if right is NULL:
            return left
        if left.priority > right.priority:
            self._press(left)
            left.right = self._merge(left.right, right)
            self._pull(left)
            return left
        self._press(right)
        right.left = self._merge(left, right.left)
        self._pull(right)
        return right

    cdef Block *_graft(self, Block *b, Block *new) noexcept:
        """The subtree with a new block in it."""
        if b is NULL or new.priority > b.priority:
            self._split(b, new.first, &new.left, &new.right)
            self._pull(new)
            return new
        self._press(b)
        if new.first < b.first:
            b.left = self._graft(b.left, new)
        else:
            b.right = self._graft(b.right, new)
        self._pull(b)
        return b

    cdef Block *_erase(self, Block *b, Block *gone) noexcept:
        """The subtree without the block `gone`, which is in it."""
        cdef Block *rest
        self._press(b)
        if b is gone:
            rest = self._merge(b.left, b.right)
            release(b)
            return rest
        if gone.first < b.first:
            b.left = self._erase(b.left, gone)
        else:
            b.right = self._erase(b.right, gone)
        self._pull(b)
        return b

    cdef void _refresh(self, Block *b, Block *changed) noexcept:
        """Measure the block `changed` again, and all above it."""
        self._press(b)
        if b is changed:
            self._measure(b)
        elif changed.first < b.first:
            self._refresh(b.left, changed)
        else:
            self._refresh(b.right, changed)
        self._pull(b)

    cdef Block *_holder(self, i64 at) noexcept:
        """The block in which `at` belongs: the last that begins at or before it; NULL if none does."""
        cdef Block *b = self.root
        cdef Block *found = NULL
        while b is not NULL:
            if b.first <= at:
                found = b
                b = b.right
            else:
                b = b.left
        return found

    cdef Block *_after(self, i64 at) noexcept:
        """The first block that begins after `at`, or NULL."""
        cdef Block *b = self.root
        cdef Block *found = NULL
        while b is not NULL:
            if b.first > at:
                found = b
                b = b.left
            else:
                b = b.right
        return found

    cdef void _descend(self, Block *to) noexcept:
        """Hand down all that is pending above a block, so that its numbers are the true ones."""
        cdef Block *b = self.root
        while b is not to:
            self._press(b)
            b = b.left if to.first < b.first else b.right

    cdef inline int _slot(self, const Block *b, i64 at) noexcept:
        """The last slot at or before `at` of a block that begins at or before it."""
        cdef int low = 0, high = b.count, middle
        while high - low > 1:
            middle = (low + high) >> 1
            if b.at[middle] <= at:
                low = middle
            else:
                high = middle
        return low

    cdef Block *_divide(self, Block *b, i64 at) noexcept:
        """Give half of a full block to a new one after it, and return the one in which `at` belongs."""
        cdef Block *new = self._block()
        cdef int keep = SLOTS // 2, i
        self._descend(b)
        new.base = b.base
        for i in range(keep):
            new.base += area(self.rate_in - b.total[i] - b.offset, b.at[i + 1] - b.at[i])
        new.count = b.count - keep
        new.offset = b.offset
        memcpy(new.at, b.at + keep, new.count * sizeof(i64))
        memcpy(new.total, b.total + keep, new.count * sizeof(i64))
        memcpy(new.refs, b.refs + keep, new.count * sizeof(uint32_t))
        b.count = keep
        self._measure(b)
        self._measure(new)
        self.root = self._graft(self.root, new)
        return new if new.first <= at else b

    cdef void _mark(self, i64 at) noexcept:
        """Have a breakpoint at `at`, one reference more; it leaves stale extremes behind, which `_reserve` makes right."""
        cdef Block *b = self._holder(at)
        cdef Block *above
        cdef int i = self._slot(b, at)
        if b.at[i] == at:
            b.refs[i] += 1
            return
        if b.count == SLOTS:
            b = self._divide(b, at)
            i = self._slot(b, at)
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
        above = self.root
        while above is not b:
            above.all_stale = True
            above = above.left if b.first < above.first else above.right

    cdef void _drop_slot(self, Block *b, int i) noexcept:
        """Take a breakpoint out of a block's arrays; it has others. `_refresh` does the rest."""
        if i == 0:
            b.base += area(self.rate_in - b.total[0] - b.offset, b.at[1] - b.first)
        b.count -= 1
        memmove(b.at + i, b.at + i + 1, (b.count - i) * sizeof(i64))
        memmove(b.total + i, b.total + i + 1, (b.count - i) * sizeof(i64))
        memmove(b.refs + i, b.refs + i + 1, (b.count - i) * sizeof(uint32_t))
        b.first = b.at[0]
        b.last = b.at[b.count - 1]

    cdef void _unmark(self, i64 at) noexcept:
        """One reference to the breakpoint at `at` less; without any, it goes."""
        cdef Block *b = self._holder(at)
        cdef Block *near
        cdef int i = self._slot(b, at)
        b.refs[i] -= 1
        if b.refs[i]:
            return
        if b.count == 1:
            self.root = self._erase(self.root, b)
            return
        self._drop_slot(b, i)
        self._refresh(self.root, b)
        if b.count < SLOTS // 4:
            near = self._after(b.first)
            if near is not NULL and self._absorb(b, near):
                return
            near = self._holder(b.first - 1)
            if near is not NULL:
                self._absorb(near, b)

    cdef bint _absorb(self, Block *b, Block *next) noexcept:
        """Take the block after `b` into it, if that leaves room to grow."""
        cdef int i
        if b.count + next.count > SLOTS * 3 // 4:
            return False
        self._descend(b)
        self._descend(next)
        for i in range(next.count):
            b.at[b.count + i] = next.at[i]
            b.total[b.count + i] = next.total[i] + next.offset - b.offset
            b.refs[b.count + i] = next.refs[i]
        i = next.count
        self.root = self._erase(self.root, next)
        b.count += i
        self._refresh(self.root, b)
        return True

    # ---- looking

    cdef i64 _total(self, i64 at) noexcept:
        """What is reserved at an instant, from `level_at` on."""
        cdef Block *b = self.root
        cdef i64 tilt = 0, out = 0
        while b is not NULL:
            if b.first <= at:
                out = b.total[self._slot(b, at)] + b.offset + tilt
                if at <= b.last:
                    break
                tilt += b.tilt
                b = b.right
            else:
                tilt += b.tilt
                b = b.left
        return out

    cdef wide _balance(self, i64 at) noexcept:
        """W at an instant from `level_at` on."""
        cdef Block *b = self.root
        cdef Block *found = NULL
        cdef i64 tilt = 0, found_tilt = 0
        cdef wide shift = 0, found_shift = 0, w
        cdef int i, slot
        while b is not NULL:
            if b.first <= at:
                found = b
                found_tilt = tilt
                found_shift = shift
                if at <= b.last:
                    break
                tilt += b.tilt
                shift += b.shift
                b = b.right
            else:
                tilt += b.tilt
                shift += b.shift
                b = b.left
        slot = self._slot(found, at)
        w = found.base
        for i in range(slot):
            w += area(self.rate_in - found.total[i] - found.offset, found.at[i + 1] - found.at[i])
        w += area(self.rate_in - found.total[slot] - found.offset, at - found.at[slot])
        return w + found_shift - area(found_tilt, at)

    cdef i64 _last(self) noexcept:
        """The last breakpoint."""
        cdef Block *b = self.root
        while b.right is not NULL:
            b = b.right
        return b.last

    cdef i64 _seek(self, Block *b, i64 low, i64 high, i64 start, i64 end, i64 tilt, i64 floor, i64 top, bint out, bint last) noexcept:
        """The first (`last`: the last) breakpoint in [start, end) with a total in floor .. top (`out`: not in it); else NEVER."""
        cdef i64 found
        cdef int i, slot
        cdef i64 total
        if b is NULL or high <= start or low >= end:
            return NEVER
        if out:
            if b.all.top + tilt <= top and b.all.low + tilt >= floor:
                return NEVER
        elif b.all.low + tilt > top or b.all.top + tilt < floor:
            return NEVER
        if last:
            found = self._seek(b.right, b.last + 1, high, start, end, tilt + b.tilt, floor, top, out, last)
        else:
            found = self._seek(b.left, low, b.first, start, end, tilt + b.tilt, floor, top, out, last)
        if found != NEVER:
            return found
        for i in range(b.count):
            slot = b.count - 1 - i if last else i
            if start <= b.at[slot] < end:
                total = b.total[slot] + b.offset + tilt
                if (floor <= total <= top) != out:
                    return b.at[slot]
        if last:
            return self._seek(b.left, low, b.first, start, end, tilt + b.tilt, floor, top, out, last)
        return self._seek(b.right, b.last + 1, high, start, end, tilt + b.tilt, floor, top, out, last)

    cdef bint _walk(self, Probe *p, Block *b, i64 low, i64 high, i64 start, i64 end, wide shift, i64 tilt) noexcept:
        """Show the breakpoints in [start, end) to a probe, as they are after (shift, tilt). True iff it stopped."""
        cdef i64 first, last
        cdef wide w
        cdef int i
        if b is NULL or high <= start or low >= end:
            return False
        if low >= start and high <= end and b.all.least_tilt <= tilt <= b.all.most_tilt and see_all(p, &b.all, shift, tilt):
            return False
        fetch(b.left)
        fetch(b.right)
        first = b.first
        last = b.last
        if self._walk(p, b.left, low, first, start, end, shift + b.shift, tilt + b.tilt):
            return True
        if not (first >= end or last < start):
            if not (
                first >= start and last < end and b.own.least_tilt <= tilt <= b.own.most_tilt and see_all(p, &b.own, shift, tilt)
            ):
                w = b.base
                for i in range(b.count):
                    if i:
                        w += area(self.rate_in - b.total[i - 1] - b.offset, b.at[i] - b.at[i - 1])
                    if start <= b.at[i] < end and see(p, b.at[i], w + shift - area(tilt, b.at[i])):
                        return True
        return self._walk(p, b.right, last + 1, high, start, end, shift + b.shift, tilt + b.tilt)

    cdef bint _probe(self, Probe *p, i64 start, i64 end, i64 rate, bint stop) noexcept:
        """Walk over all breakpoints as they would be with `rate` on [start, end). True iff it stopped at a dry bucket."""
        p.stop = stop
        p.some = False
        p.x0 = self.x0
        p.cap = self.cap
        if self._walk(p, self.root, self.level_at, NEVER, self.level_at, start, 0, 0):
            return True
        if see(p, start, self._balance(start)):
            return True
        if self._walk(p, self.root, self.level_at, NEVER, start + 1, end, area(rate, start), rate):
            return True
        if end == NEVER:
            return False
        if see(p, end, self._balance(end) - area(rate, end - start)):
            return True
        return self._walk(p, self.root, self.level_at, NEVER, end + 1, NEVER, area(-rate, end - start), 0)

    cdef object _dry(self, i64 start, i64 from_, i64 end, i64 rate):
        """The first instant, not before `start`, at which the bucket is dry and still drained, with `rate` on [from_, end)."""
        cdef Probe p
        cdef i64 last, net, at
        cdef wide w
        if self._probe(&p, from_, end, rate, True):
            at = p.dry_at
            if at == self.level_at:
                return max(start, at)
            net = self._total(at - 1) - self.rate_in + (rate if from_ <= at - 1 < end else 0)
            return max(start, narrow(at + floored(p.dry, net)))
        net = self.forever - self.rate_in + (rate if end == NEVER else 0)
        if net <= 0:
            return None
        last = self._last()
        if end == NEVER:
            at = last if last > from_ else from_
        else:
            at = last if last > end else end
        w = self._balance(at) - area(rate, (at if end == NEVER else end) - from_)
        return max(start, narrow(at + floored(level_of(&p, w), net)))

    # ---- the interface

    def __len__(self):
        """How many breakpoints there are."""
        return self._count(self.root)

    cdef i64 _count(self, Block *b) noexcept:
        return 0 if b is NULL else b.count + self._count(b.left) + self._count(b.right)

    @property
    def level(self):
        return as_int(self.x0 + self._balance(self.level_at)) if self.bucket else 0

    cdef i64 _blocks(self, Block *b) noexcept:
        return 0 if b is NULL else 1 + self._blocks(b.left) + self._blocks(b.right)

    def __sizeof__(self):
        return object.__sizeof__(self) + self._blocks(self.root) * sizeof(Block)

    def add(self, start, end, rate):
        cdef i64 s = number(start, LAST, "a start")
        cdef i64 e = NEVER if end is None else number(end, LAST, "an end")
        cdef i64 r = number(rate, MOST, "a rate")
        if r <= 0 or e <= s:
            raise ValueError("a reservation has a rate above 0 and ends after it starts")
        if r > MOST - self.booked:
            raise ValueError("the sum of the rates is out of bounds")
        provide(2)
        self.booked += r
        if e == NEVER:
            self.forever += r
        if e <= self.level_at:
            return
        if s > self.level_at:
            self._mark(s)
        else:
            s = self.level_at
        if e != NEVER:
            self._mark(e)
        self._reserve(self.root, self.level_at, NEVER, s, e, r)

    def remove(self, start, end, rate):
        cdef i64 s = number(start, LAST, "a start")
        cdef i64 e = NEVER if end is None else number(end, LAST, "an end")
        cdef i64 r = number(rate, MOST, "a rate")
        cdef i64 begin = s if s > self.level_at else self.level_at
        if r <= 0 or e <= s or r > (self.forever if e == NEVER else self.booked - self.forever):
            raise KeyError("no such reservation")
        if e > self.level_at:
            if s > self.level_at and not self._marked(s):
                raise KeyError("no such reservation")
            if e != NEVER and not self._marked(e):
                raise KeyError("no such reservation")
            if self._seek(self.root, self.level_at, NEVER, begin, e, 0, 0, r - 1, False, False) != NEVER:
                raise KeyError("no such reservation")
            self._reserve(self.root, self.level_at, NEVER, begin, e, -r)
            if s > self.level_at:
                self._unmark(s)
            if e != NEVER:
                self._unmark(e)
        self.booked -= r
        if e == NEVER:
            self.forever -= r

    cdef bint _marked(self, i64 at) noexcept:
        cdef Block *b = self._holder(at)
        return b.at[self._slot(b, at)] == at

    def fold_to(self, level, at):
        cdef i64 now = number(at, LAST, "an instant")
        cdef wide kept = self._level(level)
        cdef Block *b
        if now < self.level_at:
            raise ValueError("the past is folded away already")
        provide(1)
        if now > self.level_at:
            self._mark(now)
            while True:
                b = self._after(-NEVER)
                if b.last >= now:
                    break
                self.root = self._erase(self.root, b)
            self._descend(b)
            while b.first < now:
                self._drop_slot(b, 0)
            b.refs[0] = 0
            self.level_at = now
            self._refresh(self.root, b)
        self.x0 = kept - self._balance(now) if self.bucket else 0

    def fold(self, now):
        if now > self.level_at:
            self.fold_to(self.level_then(now), now)

    def level_then(self, now):
        cdef i64 at = number(now, LAST, "an instant")
        cdef Probe p
        cdef wide w
        if not self.bucket:
            return 0
        if at <= self.level_at:
            return self.level
        p.stop = p.some = False
        p.x0 = self.x0
        p.cap = self.cap
        w = self._balance(at)
        self._walk(&p, self.root, self.level_at, NEVER, self.level_at, at, 0, 0)
        see(&p, at, w)
        return as_int(level_of(&p, w))

    def total_at(self, at):
        cdef i64 t = number(at, LAST, "an instant")
        return 0 if t < self.level_at else self._total(t)

    def missing(self, start, end, rate, bint floor=True):
        cdef i64 s = clipped(start, "a start")
        cdef i64 e = NEVER if end is None else clipped(end, "an end")
        cdef i64 r = clipped(rate, "a rate")
        cdef i64 begin = s if s > self.level_at else self.level_at
        cdef i64 at, low
        cdef object dry
        if r <= 0 or (end is not None and e <= s and end <= start):
            raise ValueError("a reservation has a rate above 0 and ends after it starts")
        if s > LAST or s < -LAST or (end is not None and e > LAST) or r > MOST - self.booked:
            return start, 0, "bound"
        if e <= begin:
            if not self.bucket:
                return None
            dry = self._dry(s, begin, begin + 1, 0)
            return None if dry is None else (dry, 0, "tokens")
        low = self.least - r if floor else -MOST
        at = self._total(begin)
        if low <= at <= self.most - r:
            at = self._seek(self.root, self.level_at, NEVER, begin + 1, e, 0, low, self.most - r, True, False)
        else:
            at = begin
        if at != NEVER:
            r += self._total(at)
            free = 2**62 if self.top is None else max(0, self.most - self._total(at))
            return at, free, "room" if r > self.most else "minimum"
        if not self.bucket:
            return None
        dry = self._dry(s, begin, e, r)
        return None if dry is None else (dry, 0, "tokens")

    def most_that_fits(self, start, end, at_most):
        """See _schedule.pyi. The greatest rate that keeps each fall within the capacity is found as Newton does it: the worst
        fall at one rate says by how much the rate has to go down at least; a maximum of linear functions needs few steps."""
        cdef i64 s = number(start, LAST, "a start")
        cdef i64 e = NEVER if end is None else number(end, LAST, "an end")
        cdef i64 r = number(at_most, MOST, "a rate")
        cdef i64 begin = s if s > self.level_at else self.level_at
        cdef i64 top
        if e <= s:
            raise ValueError("an interval ends after it starts")
        if e <= begin:
            return r
        r = min(r, MOST - self.booked)
        if self.top is not None:
            top = max(self._total(begin), self._greatest(self.root, self.level_at, NEVER, begin + 1, e, 0))
            r = min(r, self.most - top)
        if self.bucket:
            if e == NEVER:
                r = min(r, self.rate_in - self.forever)
            elif self.forever > self.rate_in:
                r = 0
            while r > 0 and not self._lower(begin, e, &r):
                pass
        return max(r, 0)

    cdef i64 _greatest(self, Block *b, i64 low, i64 high, i64 start, i64 end, i64 tilt) noexcept:
        """The greatest total in [start, end), at least 0."""
        cdef i64 out, other
        cdef int i
        if b is NULL or high <= start or low >= end:
            return 0
        if low >= start and high <= end:
            return b.all.top + tilt
        out = self._greatest(b.left, low, b.first, start, end, tilt + b.tilt)
        other = self._greatest(b.right, b.last + 1, high, start, end, tilt + b.tilt)
        if other > out:
            out = other
        for i in range(b.count):
            if start <= b.at[i] < end and b.total[i] + b.offset + tilt > out:
                out = b.total[i] + b.offset + tilt
        return out

    cdef bint _lower(self, i64 start, i64 end, i64 *rate) noexcept:
        """True iff the tokens suffice for the rate; else it becomes the next that may do (0: none)."""
        cdef Probe p
        cdef i64 lower = rate[0]
        self._probe(&p, start, end, lower, False)
        if p.fall <= p.cap and p.dip >= -p.x0:
            return True
        if p.fall > p.cap:
            lower = min(lower, less(rate[0], p.fall - p.cap, both(p.from_at, p.to_at, start, end)))
        if p.dip < -p.x0:
            lower = min(lower, less(rate[0], -p.x0 - p.dip, both(self.level_at, p.dip_at, start, end)))
        rate[0] = lower
        return False

    def next_start(self, not_before, length, rate):
        """See _schedule.pyi. Each refusal has a witness that refuses all starts up to some later one as well."""
        cdef i64 s = number(not_before, LAST, "a start")
        cdef i64 span = NEVER if length is None else number(length, LAST, "a length")
        cdef i64 r = clipped(rate, "a rate")
        cdef i64 e = NEVER if length is None else s + span
        cdef i64 last, top
        if r <= 0 or span <= 0 or s < self.level_at:
            raise ValueError("a reservation has a rate above 0, a length, and a start that is not folded away")
        if r > MOST - self.booked or (e != NEVER and e > LAST):
            return None
        top = self.most - r
        last = self._seek(self.root, self.level_at, NEVER, s + 1, e, 0, self.least - r, top, True, True)
        if last == NEVER and not self.least - r <= self._total(s) <= top:
            last = s
        if last != NEVER:
            last = self._seek(self.root, self.level_at, NEVER, last + 1, NEVER, 0, self.least - r, top, False, False)
            return None if last == NEVER else last
        if self.bucket:
            last = self._next_tokens(s, e, span, r)
            return None if last > LAST else last
        return s

    cdef i64 _next_tokens(self, i64 s, i64 e, i64 span, i64 r) noexcept:
        """As next_start, for the bucket alone; NEVER: no start fits."""
        cdef Probe p
        cdef i64 last = self._last(), steady, out = s
        cdef i64 net = self.rate_in - self.forever
        if net < 0 or (e == NEVER and net < r):
            return NEVER
        self._probe(&p, s, e, r, False)
        if p.fall <= p.cap and p.dip >= -p.x0:
            return s
        # from `steady` on nothing changes any more: all reservations have ended or go on for ever, and the bucket is full
        steady = last if net == 0 else narrow(last - floored(-p.cap, net))
        if s >= steady:
            return NEVER
        if p.fall > p.cap:
            out = max(out, self._until(p.from_at, p.to_at, s, e, span, r, p.fall - p.cap, p.cap, False))
        if p.dip < -p.x0:
            out = max(out, self._until(self.level_at, p.dip_at, s, e, span, r, -p.x0 - p.dip, p.x0, True))
        return NEVER if out == NEVER else min(out, steady)

    cdef i64 _until(self, i64 a, i64 b, i64 s, i64 e, i64 span, i64 r, wide excess, wide allowed, bint lowest) noexcept:
        """The first start after `s` that the witness a .. b does not refuse: W falls there by `excess` more than is allowed.
        What the reservation takes between two fixed instants first grows with its start, then shrinks: it has to shrink so far.
        And where a <= s, any reservation from s on that ends at y takes all of its tokens after a: W has to be high enough at y."""
        cdef i64 inside = both(a, b, s, e), y, out
        cdef wide may = area(r, inside) - excess, wanted
        if may < 0:
            return NEVER
        out = narrow(b - floored(may, r))
        if span != NEVER and a <= s:
            wanted = area(r, span) - allowed
            if not lowest:
                wanted += self._balance(a)
            y = self._reaches(e, wanted)
            if y == NEVER:
                return NEVER
            out = max(out, y - span)
        return out

    cdef i64 _reaches(self, i64 start, wide wanted) noexcept:
        """The first instant from `start` on with W of at least `wanted`, or NEVER."""
        cdef i64 at, net, last = self._last()
        cdef wide w = self._balance(start)
        if w >= wanted:
            return start
        at = self._climb(self.root, self.level_at, NEVER, start + 1, wanted, 0, 0)
        if at != NEVER:
            net = self.rate_in - self._total(at - 1)
            return narrow(at - floored(self._balance(at) - wanted, net))
        if last > start:
            start = last
            w = self._balance(start)
        net = self.rate_in - self._total(start)
        return NEVER if net <= 0 else min(narrow(start - floored(w - wanted, net)), NEVER)

    cdef i64 _climb(self, Block *b, i64 low, i64 high, i64 start, wide wanted, wide shift, i64 tilt) noexcept:
        """The first breakpoint from `start` on with W of at least `wanted`, or NEVER."""
        cdef i64 found
        cdef wide w
        cdef int i
        if b is NULL or high <= start or b.all.peak + shift - area(tilt, b.all.peak_at) < wanted:
            return NEVER
        found = self._climb(b.left, low, b.first, start, wanted, shift + b.shift, tilt + b.tilt)
        if found != NEVER:
            return found
        w = b.base
        for i in range(b.count):
            if i:
                w += area(self.rate_in - b.total[i - 1] - b.offset, b.at[i] - b.at[i - 1])
            if b.at[i] >= start and w + shift - area(tilt, b.at[i]) >= wanted:
                return b.at[i]
        return self._climb(b.right, b.last + 1, high, start, wanted, shift + b.shift, tilt + b.tilt)

    def steps(self):
        cdef list out = []
        self._list(self.root, 0, out)
        return out

    cdef int _list(self, Block *b, i64 tilt, list out) except -1:
        cdef int i
        if b is NULL:
            return 0
        self._list(b.left, tilt + b.tilt, out)
        for i in range(b.count):
            out.append((b.at[i], b.total[i] + b.offset + tilt))
        self._list(b.right, tilt + b.tilt, out)
        return 0

    def instants(self, after, count):
        cdef i64 at = number(after, LAST, "an instant")
        cdef i64 wanted = number(count, LAST, "a count")
        cdef list out = []
        cdef Block *b = self._holder(at)
        cdef int i
        if b is NULL:
            b = self._after(at)
        while b is not NULL and wanted > 0:
            for i in range(b.count):
                if b.at[i] > at and wanted > 0:
                    out.append(b.at[i])
                    wanted -= 1
            b = self._after(b.first)
        return out

    @property
    def last(self):
        return self._last()
