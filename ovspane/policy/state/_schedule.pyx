# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reservations over time in O(log n): totals with range-add and range-max, and a token bucket with lazy tilts.
Compiled.

Interface: _schedule.pyi.

Idea. Let W(t) be the integral of (fill - total) over time. The bucket's level is W(t) + min(x0, cap - max W up to t),
where level = x0 + W at the start; it never runs dry iff the greatest fall of W (from a peak to a later dip) is at most
cap, the lowest W is at least -x0, and the last net rate is not negative. A reservation of rate r on [s, e) adds r to
the totals there, tilts W by -r (t - s) there and lowers it by r (e - s) after: affine changes, kept lazily on a tree.

Structure. A treap of blocks of up to SLOTS breakpoints: small schedules are one or few short arrays, large ones have a
tree of a few thousand nodes that stays in the cache. Each block has the extremes of its own breakpoints and of its
subtree: greatest and least total, peak and dip of W, the greatest fall. A tilt moves breakpoints by different amounts,
so the extremes may change hands: with them goes the interval of further tilts under which they certainly do not
(`least_tilt` .. `most_tilt`). A tilt inside the interval is O(1); outside of it, the subtree is entered. Questions
change nothing: they carry the tilt of the reservation asked for down with the pending ones.

Cost: O(log n) where few extremes change hands; at worst each block is entered once, n / SLOTS short loops. Files:
_schedule_curve.pxd (extremes), _schedule_blocks.pxd (the tree), _schedule_search.pxd (questions); here Python meets
them. Bounds: instants within +-2**55 ms, rates and their sum up to 2**60 bit/s, so each W is within 2**118: 128 bits
suffice.

Longer than 400 lines: the class that Python sees, whose methods each check their arguments before C code runs.
"""

from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport uint32_t, uint64_t

from ovspane.policy.state._schedule_blocks cimport (
    blocks_of, count_of, descend, drop_slot, erase, free_all, fresh_block, holder, mark, marked, next_block, provide,
    pull, refresh, reserve, slot_of, unmark,
)
from ovspane.policy.state._schedule_curve cimport (
    NEVER, Block, Probe, Treap, area, both, floored, high_half, i64, joined, level_of, low_half, measure, narrow, see, wide,
)
from ovspane.policy.state._schedule_search cimport balance, greatest, latest, lowered, probe, reaches, reserved, seek, surely, walk

#: bounds, see above: instants (ms), a rate and the sum of all (bit/s)
LATEST = 1 << 55
RATES = 1 << 60
cdef i64 LAST = (<i64>1) << 55
cdef i64 MOST = (<i64>1) << 60


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
    cdef readonly bint bucket_matters, limits
    cdef Treap t
    cdef i64 most  # top, or MOST
    cdef i64 booked  # the sum of all rates
    cdef i64 forever  # the sum of those without an end: what is reserved after the last breakpoint

    def __cinit__(self, str share not None, top=None, least=0, capacity=None, fill=None, level=0, level_at=0):
        self.t.root = NULL
        self.booked = self.forever = 0
        self.t.work = 0
        self.t.state = fresh_seed()
        cdef i64 at = number(level_at, LAST, "an instant")
        self.least = number(least, MOST, "a rate")
        self.most = MOST if top is None else number(top, MOST, "a rate")
        self.t.rate_in = 0 if fill is None else number(fill, MOST, "a rate")
        if self.least < 0 or self.most < 0 or self.t.rate_in < 0:
            raise ValueError("a rate is out of bounds")
        if capacity is not None and number(capacity, MOST, "a capacity") < 0:
            raise ValueError("a capacity is out of bounds")
        self.t.bucket = fill is not None and capacity is not None and (top is None or fill < top)
        self.bucket_matters = self.t.bucket
        self.limits = top is not None or self.least > 0 or self.t.bucket
        self.share, self.top, self.capacity, self.fill = share, top, capacity, fill
        self.t.cap = widened(capacity * 1000) if self.t.bucket else 0
        self.t.x0 = self._level(level)
        self.t.level_at = at
        provide(1)
        self.t.root = fresh_block(&self.t)
        self.t.root.at[0] = at
        self.t.root.total[0] = 0
        self.t.root.refs[0] = 0
        self.t.root.count = 1
        measure(&self.t, self.t.root)
        pull(&self.t, self.t.root)

    def __dealloc__(self):
        free_all(&self.t, self.t.root)

    cdef wide _level(self, object level) except? -1:
        """A level as given, from empty to full: the closed form of the level needs that (docs/design/admission.md)."""
        if not isinstance(level, int):
            raise TypeError(f"a level must be an int, not {type(level).__name__}")
        if not self.t.bucket or level < 0:
            return 0
        return self.t.cap if level >= as_int(self.t.cap) else widened(level)

    cdef object _dry(self, i64 start, i64 from_, i64 end, i64 rate):
        """The first instant, not before `start`, at which the bucket is dry and still drained, with `rate` on [from_, end)."""
        cdef Probe p
        cdef i64 last, net, at
        cdef wide w
        if self.forever <= self.t.rate_in and surely(&self.t, from_, end, rate):
            return None
        if probe(&self.t, &p, from_, end, rate, True):
            at = p.dry_at
            if at == self.t.level_at:
                return max(start, at)
            net = reserved(&self.t, at - 1) - self.t.rate_in + (rate if from_ <= at - 1 < end else 0)
            return max(start, narrow(at + floored(p.dry, net)))
        net = self.forever - self.t.rate_in + (rate if end == NEVER else 0)
        if net <= 0:
            return None
        last = latest(&self.t)
        if end == NEVER:
            at = last if last > from_ else from_
        else:
            at = last if last > end else end
        w = balance(&self.t, at) - area(rate, (at if end == NEVER else end) - from_)
        return max(start, narrow(at + floored(level_of(&p, w), net)))

    # ---- the interface

    @property
    def work(self):
        return self.t.work

    @property
    def level_at(self):
        return self.t.level_at

    def __len__(self):
        """How many breakpoints there are."""
        return count_of(&self.t, self.t.root)

    @property
    def level(self):
        return as_int(self.t.x0 + balance(&self.t, self.t.level_at)) if self.t.bucket else 0

    def __sizeof__(self):
        return object.__sizeof__(self) + blocks_of(&self.t, self.t.root) * sizeof(Block)

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
        if e <= self.t.level_at:
            return
        if s > self.t.level_at:
            mark(&self.t, s)
        else:
            s = self.t.level_at
        if e != NEVER:
            mark(&self.t, e)
        reserve(&self.t, self.t.root, self.t.level_at, NEVER, s, e, r)

    def remove(self, start, end, rate):
        cdef i64 s = number(start, LAST, "a start")
        cdef i64 e = NEVER if end is None else number(end, LAST, "an end")
        cdef i64 r = number(rate, MOST, "a rate")
        cdef i64 begin = s if s > self.t.level_at else self.t.level_at
        if r <= 0 or e <= s or r > (self.forever if e == NEVER else self.booked - self.forever):
            raise KeyError("no such reservation")
        if e > self.t.level_at:
            if s > self.t.level_at and not marked(&self.t, s):
                raise KeyError("no such reservation")
            if e != NEVER and not marked(&self.t, e):
                raise KeyError("no such reservation")
            if seek(&self.t, self.t.root, self.t.level_at, NEVER, begin, e, 0, 0, r - 1, False, False) != NEVER:
                raise KeyError("no such reservation")
            reserve(&self.t, self.t.root, self.t.level_at, NEVER, begin, e, -r)
            if s > self.t.level_at:
                unmark(&self.t, s)
            if e != NEVER:
                unmark(&self.t, e)
        self.booked -= r
        if e == NEVER:
            self.forever -= r

    def fold_to(self, level, at):
        cdef i64 now = number(at, LAST, "an instant")
        cdef wide kept = self._level(level)
        cdef Block *b
        if now < self.t.level_at:
            raise ValueError("the past is folded away already")
        provide(1)
        if now > self.t.level_at:
            mark(&self.t, now)
            while True:
                b = next_block(&self.t, -NEVER)
                if b.last >= now:
                    break
                self.t.root = erase(&self.t, self.t.root, b)
            descend(&self.t, b)
            while b.first < now:
                drop_slot(&self.t, b, 0)
            b.refs[0] = 0
            self.t.level_at = now
            refresh(&self.t, self.t.root, b)
        self.t.x0 = kept - balance(&self.t, now) if self.t.bucket else 0

    def level_then(self, now):
        cdef i64 at = number(now, LAST, "an instant")
        cdef Probe p
        cdef wide w
        if not self.t.bucket:
            return 0
        if at <= self.t.level_at:
            return self.level
        p.stop = p.some = False
        p.x0 = self.t.x0
        p.cap = self.t.cap
        w = balance(&self.t, at)
        walk(&self.t, &p, self.t.root, self.t.level_at, NEVER, self.t.level_at, at, 0, 0)
        see(&p, at, w)
        return as_int(level_of(&p, w))

    def total_at(self, at):
        cdef i64 t = number(at, LAST, "an instant")
        return 0 if t < self.t.level_at else reserved(&self.t, t)

    def missing(self, start, end, rate, bint floor=True):
        cdef i64 s = clipped(start, "a start")
        cdef i64 e = NEVER if end is None else clipped(end, "an end")
        cdef i64 r = clipped(rate, "a rate")
        cdef i64 begin = s if s > self.t.level_at else self.t.level_at
        cdef i64 at, low
        cdef object dry
        if r <= 0 or (end is not None and e <= s and end <= start):
            raise ValueError("a reservation has a rate above 0 and ends after it starts")
        if s > LAST or s < -LAST or (end is not None and e > LAST) or r > MOST - self.booked:
            return start, 0, "bound"
        if e <= begin:
            if not self.t.bucket:
                return None
            dry = self._dry(s, begin, begin + 1, 0)
            return None if dry is None else (dry, 0, "tokens")
        low = self.least - r if floor else -MOST
        at = reserved(&self.t, begin)
        if low <= at <= self.most - r:
            at = seek(&self.t, self.t.root, self.t.level_at, NEVER, begin + 1, e, 0, low, self.most - r, True, False)
        else:
            at = begin
        if at != NEVER:
            r += reserved(&self.t, at)
            free = 2**62 if self.top is None else max(0, self.most - reserved(&self.t, at))
            return at, free, "room" if r > self.most else "minimum"
        if not self.t.bucket:
            return None
        dry = self._dry(s, begin, e, r)
        return None if dry is None else (dry, 0, "tokens")

    def most_that_fits(self, start, end, at_most):
        """See _schedule.pyi. The greatest rate that keeps each fall within the capacity is found as Newton does it: the worst
        fall at one rate says by how much the rate has to go down at least; a maximum of linear functions needs few steps."""
        cdef i64 s = number(start, LAST, "a start")
        cdef i64 e = NEVER if end is None else number(end, LAST, "an end")
        cdef i64 r = number(at_most, MOST, "a rate")
        cdef i64 begin = s if s > self.t.level_at else self.t.level_at
        cdef i64 top
        if e <= s:
            raise ValueError("an interval ends after it starts")
        if e <= begin:
            return r
        r = min(r, MOST - self.booked)
        if self.top is not None:
            top = max(reserved(&self.t, begin), greatest(&self.t, self.t.root, self.t.level_at, NEVER, begin + 1, e, 0))
            r = min(r, self.most - top)
        if self.t.bucket:
            if e == NEVER:
                r = min(r, self.t.rate_in - self.forever)
            elif self.forever > self.t.rate_in:
                r = 0
            while r > 0 and not lowered(&self.t, begin, e, &r):
                pass
        return max(r, 0)

    def next_start(self, not_before, length, rate):
        """See _schedule.pyi. Each refusal has a witness that refuses all starts up to some later one as well."""
        cdef i64 s = number(not_before, LAST, "a start")
        cdef i64 span = NEVER if length is None else number(length, LAST, "a length")
        cdef i64 r = clipped(rate, "a rate")
        cdef i64 e = NEVER if length is None else s + span
        cdef i64 last, top
        if r <= 0 or span <= 0 or s < self.t.level_at:
            raise ValueError("a reservation has a rate above 0, a length, and a start that is not folded away")
        if r > MOST - self.booked or (e != NEVER and e > LAST):
            return None
        top = self.most - r
        last = seek(&self.t, self.t.root, self.t.level_at, NEVER, s + 1, e, 0, self.least - r, top, True, True)
        if last == NEVER and not self.least - r <= reserved(&self.t, s) <= top:
            last = s
        if last != NEVER:
            last = seek(&self.t, self.t.root, self.t.level_at, NEVER, last + 1, NEVER, 0, self.least - r, top, False, False)
            return None if last == NEVER else last
        if self.t.bucket:
            last = self._next_tokens(s, e, span, r)
            return None if last > LAST else last
        return s

    cdef i64 _next_tokens(self, i64 s, i64 e, i64 span, i64 r) noexcept:
        """As next_start, for the bucket alone; NEVER: no start fits."""
        cdef Probe p
        cdef i64 last = latest(&self.t), steady, out = s
        cdef i64 net = self.t.rate_in - self.forever
        if net < 0 or (e == NEVER and net < r):
            return NEVER
        if surely(&self.t, s, e, r):
            return s
        probe(&self.t, &p, s, e, r, False)
        if p.fall <= p.cap and p.dip >= -p.x0:
            return s
        # from `steady` on nothing changes any more: all reservations have ended or go on for ever, and the bucket is
        # full
        steady = last if net == 0 else narrow(last - floored(-p.cap, net))
        if s >= steady:
            return NEVER
        if p.fall > p.cap:
            out = max(out, self._until(p.from_at, p.to_at, s, e, span, r, p.fall - p.cap, p.cap, False))
        if p.dip < -p.x0:
            out = max(out, self._until(self.t.level_at, p.dip_at, s, e, span, r, -p.x0 - p.dip, p.x0, True))
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
                wanted += balance(&self.t, a)
            y = reaches(&self.t, e, wanted)
            if y == NEVER:
                return NEVER
            out = max(out, y - span)
        return out

    def steps(self):
        cdef list out = []
        self._list(self.t.root, 0, out)
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
        cdef Block *b = holder(&self.t, at)
        cdef int i
        if b is NULL:
            b = next_block(&self.t, at)
        while b is not NULL and wanted > 0:
            for i in range(b.count):
                if b.at[i] > at and wanted > 0:
                    out.append(b.at[i])
                    wanted -= 1
            b = next_block(&self.t, b.first)
        return out

    @property
    def last(self):
        return latest(&self.t)
