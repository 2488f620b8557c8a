"""Questions to the tree of blocks of the compiled schedule; they change nothing. C only; see _schedule.pyx for the
idea.

A question about a reservation that is not booked carries the tilt that it would cause down with the pending ones.
"""

from ovspane.policy.state._schedule_blocks cimport slot_of
from ovspane.policy.state._schedule_curve cimport (
    NEVER,
    SCAN,
    Block,
    Probe,
    Treap,
    area,
    both,
    fetch,
    floored,
    i64,
    less,
    narrow,
    see,
    see_all,
    wide,
)


cdef inline i64 reserved(Treap *t, i64 at) noexcept:
    """What is reserved at an instant, from `level_at` on."""
    cdef Block *b = t.root
    cdef i64 tilt = 0, out = 0
    while b is not NULL:
        if b.first <= at:
            out = b.total[slot_of(t, b, at)] + b.offset + tilt
            if at <= b.last:
                break
            tilt += b.tilt
            b = b.right
        else:
            tilt += b.tilt
            b = b.left
    return out


cdef inline wide balance(Treap *t, i64 at) noexcept:
    """W at an instant from `level_at` on."""
    cdef Block *b = t.root
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
    slot = slot_of(t, found, at)
    w = found.base
    for i in range(slot):
        w += area(t.rate_in - found.total[i] - found.offset, found.at[i + 1] - found.at[i])
    w += area(t.rate_in - found.total[slot] - found.offset, at - found.at[slot])
    return w + found_shift - area(found_tilt, at)


cdef inline i64 latest(Treap *t) noexcept:
    """The last breakpoint."""
    cdef Block *b = t.root
    while b.right is not NULL:
        b = b.right
    return b.last


cdef inline i64 seek(Treap *t, Block *b, i64 low, i64 high, i64 start, i64 end, i64 tilt, i64 floor, i64 top, bint out, bint last) noexcept:
    """The first (`last`: the last) breakpoint in [start, end) with a total in floor .. top (`out`: not in it); else NEVER."""
    cdef i64 found
    cdef int i, slot
    cdef i64 total
    if b is NULL or high <= start or low >= end:
        return NEVER
    t.work += 1
    if out:
        if b.all.top + tilt <= top and b.all.low + tilt >= floor:
            return NEVER
    elif b.all.low + tilt > top or b.all.top + tilt < floor:
        return NEVER
    if last:
        found = seek(t, b.right, b.last + 1, high, start, end, tilt + b.tilt, floor, top, out, last)
    else:
        found = seek(t, b.left, low, b.first, start, end, tilt + b.tilt, floor, top, out, last)
    if found != NEVER:
        return found
    if b.own.low + tilt < floor or b.own.top + tilt > top if out else b.own.low + tilt <= top and b.own.top + tilt >= floor:
        for i in range(b.count):
            slot = b.count - 1 - i if last else i
            if start <= b.at[slot] < end:
                total = b.total[slot] + b.offset + tilt
                if (floor <= total <= top) != out:
                    return b.at[slot]
    if last:
        return seek(t, b.left, low, b.first, start, end, tilt + b.tilt, floor, top, out, last)
    return seek(t, b.right, b.last + 1, high, start, end, tilt + b.tilt, floor, top, out, last)


cdef inline i64 greatest(Treap *t, Block *b, i64 low, i64 high, i64 start, i64 end, i64 tilt) noexcept:
    """The greatest total in [start, end), at least 0."""
    cdef i64 out, other
    cdef int i
    if b is NULL or high <= start or low >= end:
        return 0
    t.work += 1
    if low >= start and high <= end:
        return b.all.top + tilt
    out = greatest(t, b.left, low, b.first, start, end, tilt + b.tilt)
    other = greatest(t, b.right, b.last + 1, high, start, end, tilt + b.tilt)
    if other > out:
        out = other
    if b.own.top + tilt > out:
        for i in range(b.count):
            if start <= b.at[i] < end and b.total[i] + b.offset + tilt > out:
                out = b.total[i] + b.offset + tilt
    return out


cdef inline i64 climb(Treap *t, Block *b, i64 low, i64 high, i64 start, wide wanted, wide shift, i64 tilt) noexcept:
    """The first breakpoint from `start` on with W of at least `wanted`, or NEVER."""
    cdef i64 found
    cdef wide w
    cdef int i
    if b is NULL or high <= start or b.all.peak + shift - area(tilt, b.all.peak_at) < wanted:
        return NEVER
    t.work += SCAN
    found = climb(t, b.left, low, b.first, start, wanted, shift + b.shift, tilt + b.tilt)
    if found != NEVER:
        return found
    w = b.base
    for i in range(b.count):
        if i:
            w += area(t.rate_in - b.total[i - 1] - b.offset, b.at[i] - b.at[i - 1])
        if b.at[i] >= start and w + shift - area(tilt, b.at[i]) >= wanted:
            return b.at[i]
    return climb(t, b.right, b.last + 1, high, start, wanted, shift + b.shift, tilt + b.tilt)


cdef inline i64 reaches(Treap *t, i64 start, wide wanted) noexcept:
    """The first instant from `start` on with W of at least `wanted`, or NEVER."""
    cdef i64 at, net, last = latest(t)
    cdef wide w = balance(t, start)
    if w >= wanted:
        return start
    at = climb(t, t.root, t.level_at, NEVER, start + 1, wanted, 0, 0)
    if at != NEVER:
        net = t.rate_in - reserved(t, at - 1)
        return narrow(at - floored(balance(t, at) - wanted, net))
    if last > start:
        start = last
        w = balance(t, start)
    net = t.rate_in - reserved(t, start)
    return NEVER if net <= 0 else min(narrow(start - floored(w - wanted, net)), NEVER)


cdef inline bint walk(Treap *t, Probe *p, Block *b, i64 low, i64 high, i64 start, i64 end, wide shift, i64 tilt) noexcept:
    """Show the breakpoints in [start, end) to a probe, as they are after (shift, tilt). True iff it stopped."""
    cdef i64 first, last, net
    cdef wide w
    cdef int i
    if b is NULL or high <= start or low >= end:
        return False
    t.work += 1
    if low >= start and high <= end and b.all.least_tilt <= tilt <= b.all.most_tilt and see_all(p, &b.all, shift, tilt):
        return False
    fetch(b.left)
    fetch(b.right)
    first = b.first
    last = b.last
    if walk(t, p, b.left, low, first, start, end, shift + b.shift, tilt + b.tilt):
        return True
    if not (first >= end or last < start):
        if not (
            first >= start and last < end and b.own.least_tilt <= tilt <= b.own.most_tilt and see_all(p, &b.own, shift, tilt)
        ):
            t.work += SCAN
            w = b.base + shift - area(tilt, first)
            net = t.rate_in - b.offset - tilt
            for i in range(b.count):
                if i:
                    w += area(net - b.total[i - 1], b.at[i] - b.at[i - 1])
                if start <= b.at[i] < end and see(p, b.at[i], w):
                    return True
    return walk(t, p, b.right, last + 1, high, start, end, shift + b.shift, tilt + b.tilt)


cdef inline bint probe(Treap *t, Probe *p, i64 start, i64 end, i64 rate, bint stop) noexcept:
    """Walk over all breakpoints as they would be with `rate` on [start, end). True iff it stopped at a dry bucket."""
    p.stop = stop
    p.some = False
    p.x0 = t.x0
    p.cap = t.cap
    if walk(t, p, t.root, t.level_at, NEVER, t.level_at, start, 0, 0):
        return True
    if see(p, start, balance(t, start)):
        return True
    if walk(t, p, t.root, t.level_at, NEVER, start + 1, end, area(rate, start), rate):
        return True
    if end == NEVER:
        return False
    if see(p, end, balance(t, end) - area(rate, end - start)):
        return True
    return walk(t, p, t.root, t.level_at, NEVER, end + 1, NEVER, area(-rate, end - start), 0)


cdef inline bint surely(Treap *t, i64 start, i64 end, i64 rate) noexcept:
    """Whether the tokens suffice even if all that the reservation takes came on top of the greatest fall: a sufficient check, O(1)."""
    cdef wide taken
    if end == NEVER:
        return False
    taken = area(rate, end - start)
    return t.root.all.fall + taken <= t.cap and t.root.all.dip - taken >= -t.x0


cdef inline bint lowered(Treap *t, i64 start, i64 end, i64 *rate) noexcept:
    """True iff the tokens suffice for the rate; else it becomes the next that may do (0: none)."""
    cdef Probe p
    cdef i64 lower = rate[0]
    if surely(t, start, end, lower):
        return True
    probe(t, &p, start, end, lower, False)
    if p.fall <= p.cap and p.dip >= -p.x0:
        return True
    if p.fall > p.cap:
        lower = min(lower, less(rate[0], p.fall - p.cap, both(p.from_at, p.to_at, start, end)))
    if p.dip < -p.x0:
        lower = min(lower, less(rate[0], -p.x0 - p.dip, both(t.level_at, p.dip_at, start, end)))
    rate[0] = lower
    return False
