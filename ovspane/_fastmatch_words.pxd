"""Matches as words, for the compiled rooms: packing, hashing, flooring and comparing them.

Inline functions only, so there is no module of this name. A match is WORDS words of value, then WORDS of mask
(match.LAYOUT); value & ~mask == 0.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

cdef enum:
    WORDS = 8
    NARROW = 4  # words of a match that says nothing of IPv6 addresses: it fills one cache line
    NIL = 0xFFFFFFFF  # no number

cdef enum Relation:
    OVERLAPPING = 0
    COVERING = 1
    COVERED = 2

cdef extern from *:
    """
    #include <stdint.h>
    /* Fields that are floored to all or nothing (match.LAYOUT), word by word; addresses are floored in `floored`. */
    #define FIELD_COUNT 12
    static const uint64_t FIELDS[FIELD_COUNT] = {
        0xffffull << 48, 0xffffull << 32, 0xffull << 24, 0x3full << 16, 0xffffull, /* ports, protocol, DSCP, EtherType */
        0xffffffffffffull << 16, 0x1fffull, 0x2000ull,                             /* source MAC, VLAN, mark */
        0xffffffffffffull << 16, 0xffffull,                                        /* destination MAC, in_port */
        ~0ull, ~0ull,                                                              /* the lower halves of IPv6 addresses */
    };
    static const int FIELD_WORD[FIELD_COUNT] = {1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 6};
    /* Counts bits; a loop-free sum in halves, so that it is the same on every CPU. */
    static inline uint64_t ones(uint64_t x) {
        x -= (x >> 1) & 0x5555555555555555u;
        x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
        return (((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u) >> 56;
    }
    """
    const int FIELD_COUNT
    const uint64_t *FIELDS
    const int *FIELD_WORD
    uint64_t ones(uint64_t x) nogil


cdef inline uint64_t floored_prefix(uint64_t mask, int width, int step) noexcept nogil:
    """The leading ones of a `width`-bit mask, in whole steps."""
    cdef uint64_t kept = 0, block
    cdef int high = width - step
    while high >= 0:
        block = ((<uint64_t>1 << step) - 1) << high
        if mask & block != block:
            break
        kept |= block
        high -= step
    return kept


cdef inline void floored(const uint64_t *mask, uint64_t *out) noexcept nogil:
    """A subset of the mask's bits, of which there are few different ones; monotone: a subset's is a subset."""
    cdef int i
    cdef uint64_t whole
    memset(out, 0, WORDS * sizeof(uint64_t))
    out[0] = floored_prefix(mask[0] >> 32, 32, 8) << 32 | floored_prefix(<uint32_t>mask[0], 32, 8)
    out[5] = floored_prefix(mask[5], 64, 16)
    out[7] = floored_prefix(mask[7], 64, 16)
    for i in range(FIELD_COUNT):
        whole = FIELDS[i]
        if mask[FIELD_WORD[i]] & whole == whole:
            out[FIELD_WORD[i]] |= whole


cdef inline uint64_t hashed(const uint64_t *value, const uint64_t *care, uint32_t words) noexcept nogil:
    """Mixes the cared-for bits (multiply and fold, as in splitmix64)."""
    cdef uint64_t sum = 0x9E3779B97F4A7C15
    cdef uint32_t w
    for w in range(words):
        sum = (sum ^ (value[w] & care[w])) * <uint64_t>0xBF58476D1CE4E5B9
        sum ^= sum >> 31
    return sum


cdef inline bint related(
    Relation relation, const uint64_t *match, uint32_t words, const uint64_t *asked, const uint64_t *care
) noexcept nogil:
    """True iff the stored match has the relation to (asked, care). Words beyond `words` are wild in the stored one."""
    cdef const uint64_t *mask = match + words
    cdef uint32_t w
    if relation == OVERLAPPING:
        for w in range(words):
            if (match[w] ^ asked[w]) & mask[w] & care[w]:
                return False
    elif relation == COVERING:
        for w in range(words):
            if mask[w] & (~care[w] | (match[w] ^ asked[w])):
                return False
    else:
        for w in range(words):
            if care[w] & (~mask[w] | (match[w] ^ asked[w])):
                return False
        for w in range(words, WORDS):
            if care[w]:
                return False
    return True


cdef inline int unpack(object number, uint64_t *words, str what) except -1:
    """The eight words of an int in 0 .. 2**512-1."""
    cdef bytes raw
    cdef const unsigned char *byte
    cdef int w, i
    cdef uint64_t word
    if not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    try:
        raw = int.to_bytes(number, 8 * WORDS, "little")
    except OverflowError:
        raise ValueError(f"{what} is not in 0 .. 2**512-1") from None
    byte = raw
    for w in range(WORDS):
        word = 0
        for i in range(7, -1, -1):
            word = (word << 8) | byte[8 * w + i]
        words[w] = word
    return 0


cdef inline int unpack_match(object value, object mask, uint64_t *match) except -1:
    """WORDS of value, then WORDS of mask."""
    cdef int w
    unpack(value, match, "value")
    unpack(mask, match + WORDS, "mask")
    for w in range(WORDS):
        if match[w] & ~match[WORDS + w]:
            raise ValueError("value has bits outside its mask")
    return 0


cdef inline int64_t checked_handle(object handle) except -1:
    if not isinstance(handle, int):
        raise TypeError(f"handle must be an int, not {type(handle).__name__}")
    if not 0 <= handle < 1 << 63:
        raise ValueError("handle is not in 0 .. 2**63-1")
    return handle


cdef inline uint32_t checked_tag(object tag) except? 0xFFFFFFFF:
    if not isinstance(tag, int):
        raise TypeError(f"tag must be an int, not {type(tag).__name__}")
    if not 0 <= tag < 1 << 31:
        raise ValueError("tag is not in 0 .. 2**31-1")
    return tag


cdef inline bint resized(void **block, size_t size) noexcept nogil:
    """Reallocate in place of `block`; False leaves it as it was."""
    cdef void *new = realloc(block[0], size)
    if new == NULL:
        return False
    block[0] = new
    return True
