"""Curves over time for the compiled schedule: what is known of a run of breakpoints, joined and tilted without looking
at each.

Only C: 128-bit arithmetic and inline functions. Invariant: the extremes of a run hold under each tilt in `least_tilt`
.. `most_tilt`, which is rounded inwards.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    typedef __int128 ovspane_wide;
    #define SLOTS 32
    #define SCAN 8    /* how many blocks can be passed over in the time in which one is looked through */
    #define NEVER ((int64_t)1 << 61)    /* after every instant */
    #define ANY ((int64_t)1 << 62)      /* more than any tilt */
    #define SHRUNK (1.0 - 0x1p-50)      /* outweighs the four roundings of a quotient */

    static inline ovspane_wide area(int64_t rate, int64_t span) { return (ovspane_wide)rate * span; }
    static inline ovspane_wide floored(ovspane_wide a, ovspane_wide b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
    static inline int64_t narrow(ovspane_wide a) { return a > NEVER ? NEVER : a < -NEVER ? -NEVER : (int64_t)a; }
    /* Have the two parts of a block that a search needs in the cache soon. */
    static inline void fetch(const void *block) {
        __builtin_prefetch(block);
        __builtin_prefetch((const char *)block + 64);
        __builtin_prefetch((const char *)block + 128);
    }
    static inline void fetch_all(const void *block) {
        for (int i = 0; i < 15; i++) __builtin_prefetch((const char *)block + 64 * i);
    }
    /* At most a / b for a >= 0, b > 0: exact enough, and never too large. */
    static inline int64_t quotient(ovspane_wide a, int64_t b) {
        double q = (a >> 62 ? (double)a : (double)(int64_t)a) / (double)b * SHRUNK;
        return q >= 0x1p61 ? ANY / 2 : (int64_t)q;
    }
    /* Whether certainly a >= b * most, for a, b, most >= 0: far cheaper than to divide. The factor outweighs the five roundings. */
    static inline int far_ahead(ovspane_wide a, int64_t b, int64_t most) {
        return (a >> 62 ? (double)a : (double)(int64_t)a) >= (double)b * (double)most * (1.0 + 0x1p-49);
    }
    /* Whether W over a span stays within 60 bits if net rates lie between these two. */
    static inline int fits_narrow(int64_t one, int64_t other, int64_t span) {
        int64_t a = one < 0 ? -one : one, b = other < 0 ? -other : other;
        return (ovspane_wide)(a > b ? a : b) * span < (ovspane_wide)1 << 60;
    }
    /* A winner is `lead` ahead, and `span` more with each unit of tilt: have the bound on that side at most lead / span. */
    static inline void closer(double *bounds, int64_t lead, int64_t span) {
        double *bound = bounds + (span < 0);
        double much = span < 0 ? -(double)span : (double)span;
        if ((double)lead < *bound * much) *bound = (double)lead / much;
    }
    static inline int64_t inwards(double q) {
        q *= SHRUNK;
        return q >= 0x1p61 ? ANY / 2 : (int64_t)q;
    }
    static inline ovspane_wide joined(int64_t high, uint64_t low) { return (ovspane_wide)high * ((ovspane_wide)1 << 64) + low; }
    static inline int64_t high_half(ovspane_wide a) { return (int64_t)(a >> 64); }
    static inline uint64_t low_half(ovspane_wide a) { return (uint64_t)a; }
    """
    ctypedef long long wide "ovspane_wide"
    const int SLOTS
    const int SCAN
    const int64_t NEVER
    const int64_t ANY
    wide area(int64_t rate, int64_t span) noexcept nogil
    wide floored(wide a, wide b) noexcept nogil
    int64_t narrow(wide a) noexcept nogil
    int64_t quotient(wide a, int64_t b) noexcept nogil
    bint far_ahead(wide a, int64_t b, int64_t most) noexcept nogil
    bint fits_narrow(int64_t one, int64_t other, int64_t span) noexcept nogil
    void closer(double *bounds, int64_t lead, int64_t span) noexcept nogil
    int64_t inwards(double q) noexcept nogil
    void fetch(const void *block) noexcept nogil
    void fetch_all(const void *block) noexcept nogil
    wide joined(int64_t high, uint64_t low) noexcept nogil
    int64_t high_half(wide a) noexcept nogil
    uint64_t low_half(wide a) noexcept nogil

ctypedef int64_t i64

cdef struct Extremes:
    i64 top, low  # greatest and least total
    i64 peak_at, dip_at, from_at, to_at
    wide peak, dip, fall  # of W; fall is W(from_at) - W(to_at)
    i64 least_tilt, most_tilt


# fifteen cache lines: what a search reads, what a sum reads, the block's own, and its breakpoints
cdef struct Block:
    Block *left
    Block *right
    i64 first, last  # breakpoints: at[0], at[count - 1]
    wide shift  # pending for the children: total += tilt, W += shift - tilt * t
    i64 tilt
    i64 offset  # added to each of `total`
    Extremes all
    uint32_t priority
    int count
    bint own_stale, all_stale
    Extremes own
    wide base  # W at the first breakpoint
    i64 at[32]
    i64 total[32]
    uint32_t refs[32]


cdef struct Treap:
    Block *root
    i64 level_at  # the first breakpoint
    i64 rate_in  # the bucket's fill
    wide cap, x0  # its capacity, and its level at `level_at` less W there
    uint64_t work  # what questions cost so far: a block looked at is 1, one whose breakpoints are looked at SCAN
    uint32_t state  # of the generator of priorities
    bint bucket


# a walk over the breakpoints in order, what it saw, and where it stopped
cdef struct Probe:
    bint stop  # at the first instant at which the bucket is dry
    bint some
    wide x0, cap
    i64 peak_at, dip_at, from_at, to_at
    wide peak, dip, fall
    i64 dry_at
    wide dry  # the level there


# ---- extremes


cdef inline void lean(Extremes *e, wide lead, i64 span) noexcept nogil:
    """A winner is `lead` ahead, and `span` more with each unit of tilt: keep the tilts that leave it ahead."""
    cdef i64 q
    if span > 0:
        if far_ahead(lead, span, -e.least_tilt):
            return
        q = -quotient(lead, span)
        if q > e.least_tilt:
            e.least_tilt = q
    elif span < 0:
        if far_ahead(lead, -span, e.most_tilt):
            return
        q = quotient(lead, -span)
        if q < e.most_tilt:
            e.most_tilt = q


cdef inline void rival(Extremes *e, i64 from_at, i64 to_at, wide fall) noexcept nogil:
    """One more candidate for the greatest fall."""
    cdef i64 more = (to_at - from_at) - (e.to_at - e.from_at)
    if fall > e.fall:
        lean(e, fall - e.fall, more)
        e.from_at = from_at
        e.to_at = to_at
        e.fall = fall
    else:
        lean(e, e.fall - fall, -more)


cdef inline void later_peak(Extremes *e, i64 at, wide peak) noexcept nogil:
    if peak > e.peak:
        lean(e, peak - e.peak, e.peak_at - at)
        e.peak_at = at
        e.peak = peak
    else:
        lean(e, e.peak - peak, at - e.peak_at)


cdef inline void later_dip(Extremes *e, i64 at, wide dip) noexcept nogil:
    if dip < e.dip:
        lean(e, e.dip - dip, at - e.dip_at)
        e.dip_at = at
        e.dip = dip
    else:
        lean(e, dip - e.dip, e.dip_at - at)


cdef inline void join(Extremes *e, const Extremes *later, bint bucket) noexcept nogil:
    """Take what comes later in time into `e`."""
    if later.top > e.top:
        e.top = later.top
    if later.low < e.low:
        e.low = later.low
    if not bucket:
        return
    if later.least_tilt > e.least_tilt:
        e.least_tilt = later.least_tilt
    if later.most_tilt < e.most_tilt:
        e.most_tilt = later.most_tilt
    rival(e, e.peak_at, later.dip_at, e.peak - later.dip)
    rival(e, later.from_at, later.to_at, later.fall)
    later_peak(e, later.peak_at, later.peak)
    later_dip(e, later.dip_at, later.dip)


cdef inline void move(Extremes *e, wide shift, i64 tilt, bint bucket) noexcept nogil:
    """The extremes after an affine change inside their interval."""
    e.top += tilt
    e.low += tilt
    if bucket:
        e.peak += shift - area(tilt, e.peak_at)
        e.dip += shift - area(tilt, e.dip_at)
        e.fall += area(tilt, e.to_at - e.from_at)
        e.least_tilt -= tilt
        e.most_tilt -= tilt


# ---- a block by itself


cdef inline void measure_narrow(Block *b, i64 net) noexcept nogil:
    """As the end of `measure`, with 64 bits: W counts from the first breakpoint on. `net`: the fill less what all totals have in
    common. The two bounds are kept as quotients in floating point and rounded inwards at the end."""
    cdef Extremes *e = &b.own
    cdef i64 w = 0, peak = 0, dip = 0, fall = 0, at, down
    cdef i64 peak_at = b.first, dip_at = b.first, from_at = b.first, to_at = b.first
    cdef double bounds[2]  # the tilts that may come off, that may come on
    cdef int i
    bounds[0] = bounds[1] = 4611686018427387904.0
    for i in range(1, b.count):
        at = b.at[i]
        w += (net - b.total[i - 1]) * (at - b.at[i - 1])
        down = peak - w
        if down > fall:
            closer(bounds, down - fall, (at - peak_at) - (to_at - from_at))
            from_at = peak_at
            to_at = at
            fall = down
        else:
            closer(bounds, fall - down, (to_at - from_at) - (at - peak_at))
        if down < 0:
            closer(bounds, -down, peak_at - at)
            peak_at = at
            peak = w
        else:
            closer(bounds, down, at - peak_at)
        if w < dip:
            closer(bounds, dip - w, at - dip_at)
            dip_at = at
            dip = w
        else:
            closer(bounds, w - dip, dip_at - at)
    e.peak_at = peak_at
    e.dip_at = dip_at
    e.from_at = from_at
    e.to_at = to_at
    e.peak = b.base + peak
    e.dip = b.base + dip
    e.fall = fall
    e.least_tilt = -inwards(bounds[0])
    e.most_tilt = inwards(bounds[1])


cdef inline void measure(Treap *t, Block *b) noexcept:
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
    if not t.bucket:
        return
    e.peak_at = e.dip_at = e.from_at = e.to_at = b.first
    e.peak = e.dip = w
    e.fall = 0
    e.least_tilt = -ANY
    e.most_tilt = ANY
    if fits_narrow(t.rate_in - e.low, t.rate_in - e.top, b.last - b.first):
        measure_narrow(b, t.rate_in - b.offset)
        return
    for i in range(1, b.count):
        w += area(t.rate_in - b.total[i - 1] - b.offset, b.at[i] - b.at[i - 1])
        rival(e, e.peak_at, b.at[i], e.peak - w)
        later_peak(e, b.at[i], w)
        later_dip(e, b.at[i], w)


# ---- the walk


cdef inline wide level_of(const Probe *p, wide w) noexcept nogil:
    """The bucket's level where W is `w`, after what the walk saw."""
    return w + p.x0 if p.x0 < p.cap - p.peak else w + p.cap - p.peak


cdef inline bint see(Probe *p, i64 at, wide w) noexcept nogil:
    """One breakpoint. True iff the walk stops here."""
    if not p.some:
        p.some = True
        p.peak_at = p.dip_at = p.from_at = p.to_at = at
        p.peak = p.dip = w
        p.fall = 0
    elif w > p.peak:
        p.peak = w
        p.peak_at = at
    else:
        if p.peak - w > p.fall:
            p.fall = p.peak - w
            p.from_at = p.peak_at
            p.to_at = at
        if w < p.dip:
            p.dip = w
            p.dip_at = at
    if p.stop and (w < -p.x0 or p.peak - w > p.cap):
        p.dry_at = at
        p.dry = level_of(p, w)
        return True
    return False


cdef inline bint see_all(Probe *p, const Extremes *e, wide shift, i64 tilt) noexcept nogil:
    """A run of breakpoints by its extremes. False, and nothing seen, if the walk stops somewhere inside."""
    cdef wide peak = e.peak + shift - area(tilt, e.peak_at)
    cdef wide dip = e.dip + shift - area(tilt, e.dip_at)
    cdef wide fall = e.fall + area(tilt, e.to_at - e.from_at)
    if p.stop and (dip < -p.x0 or fall > p.cap or (p.some and p.peak - dip > p.cap)):
        return False
    if not p.some:
        p.some = True
        p.peak_at = e.peak_at
        p.dip_at = e.dip_at
        p.from_at = e.from_at
        p.to_at = e.to_at
        p.peak = peak
        p.dip = dip
        p.fall = fall
        return True
    if p.peak - dip > p.fall:
        p.fall = p.peak - dip
        p.from_at = p.peak_at
        p.to_at = e.dip_at
    if fall > p.fall:
        p.fall = fall
        p.from_at = e.from_at
        p.to_at = e.to_at
    if peak > p.peak:
        p.peak = peak
        p.peak_at = e.peak_at
    if dip < p.dip:
        p.dip = dip
        p.dip_at = e.dip_at
    return True


cdef inline i64 both(i64 a, i64 b, i64 start, i64 end) noexcept nogil:
    """How long the intervals a .. b and start .. end have in common."""
    cdef i64 first = a if a > start else start
    cdef i64 last = b if b < end else end
    return last - first if last > first else 0


cdef inline i64 less(i64 rate, wide excess, i64 span) noexcept nogil:
    """The rate, lower by so much that over `span` it takes `excess` less; 0 if no rate does."""
    if span == 0:
        return 0
    return narrow(rate + floored(-excess, span))
