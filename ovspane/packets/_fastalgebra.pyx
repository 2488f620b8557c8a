# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Set algebra of ternary matches: is a match inside a union, and what of it is not. Compiled; `_fastalgebra_py` is its
twin.

The typed interface is in _fastalgebra.pyi.

`uncovered` takes the overlapping match that cares for the fewest bits more, cuts what is outside it into disjoint
pieces, and asks the same of each piece; each cut fixes a bit, so the recursion is at most 512 deep, and every
comparison is counted against the budget. Invariant: a piece is never empty, so the first that nothing overlaps is an
answer.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ovspane._fastmatch_words cimport WORDS, ones, unpack_match
from ovspane.packets._fastalgebra_py import BudgetSpent

cdef enum:
    COVERED = 0
    FOUND = 1
    NO_MEMORY = 2
    SPENT = 3


cdef int unpack_pair(object match, uint64_t *words) except -1:
    value, mask = match
    return unpack_match(value, mask, words)


cdef object pack(const uint64_t *words):
    cdef unsigned char raw[8 * WORDS]
    cdef int w, i
    for w in range(WORDS):
        for i in range(8):
            raw[8 * w + i] = <unsigned char>(words[w] >> 8 * i)
    return int.from_bytes(raw[: 8 * WORDS], "little")


cdef tuple pack_match(const uint64_t *words):
    return pack(words), pack(words + WORDS)


cdef inline bint meet(const uint64_t *one, const uint64_t *other) noexcept nogil:
    cdef int w
    for w in range(WORDS):
        if (one[w] ^ other[w]) & one[WORDS + w] & other[WORDS + w]:
            return False
    return True


cdef inline int extra_bits(const uint64_t *match, const uint64_t *other) noexcept nogil:
    """How many bits `other` cares for and `match` does not."""
    cdef int w, total = 0
    for w in range(WORDS):
        total += <int>ones(other[WORDS + w] & ~match[WORDS + w])
    return total


cdef bint next_piece(uint64_t *rest, const uint64_t *other, int *word, uint64_t *piece) noexcept nogil:
    """Cut the next piece outside `other` off `rest`; False when `rest` is inside it."""
    cdef uint64_t extra, bit
    while word[0] >= 0:
        extra = other[WORDS + word[0]] & ~rest[WORDS + word[0]]
        if extra:
            bit = extra & (0 - extra)
            memcpy(piece, rest, 2 * WORDS * sizeof(uint64_t))
            piece[word[0]] |= ~other[word[0]] & bit
            piece[WORDS + word[0]] |= bit
            rest[word[0]] |= other[word[0]] & bit
            rest[WORDS + word[0]] |= bit
            return True
        word[0] -= 1
    return False


cdef int search(
    const uint64_t *match, const uint64_t *others, const uint32_t *asked, uint32_t count, int64_t *left, uint64_t *found
) noexcept nogil:
    """Whether the `asked` of `others` cover the match; if not, `found` is a part that they do not."""
    cdef uint64_t rest[2 * WORDS]
    cdef uint64_t piece[2 * WORDS]
    cdef const uint64_t *other
    cdef const uint64_t *best = NULL
    cdef uint32_t *met
    cdef uint32_t i, many = 0
    cdef int bits, fewest = 0, word = WORDS - 1, answer = COVERED
    left[0] -= <int64_t>count + 1
    if left[0] < 0:
        return SPENT
    met = <uint32_t *>malloc((count + 1) * sizeof(uint32_t))
    if met == NULL:
        return NO_MEMORY
    for i in range(count):
        other = others + <size_t>asked[i] * 2 * WORDS
        if meet(match, other):
            met[many] = asked[i]
            many += 1
            bits = extra_bits(match, other)
            if best == NULL or bits < fewest:
                best, fewest = other, bits
    if best == NULL:
        memcpy(found, match, 2 * WORDS * sizeof(uint64_t))
        answer = FOUND
    elif fewest:
        memcpy(rest, match, sizeof(rest))
        while answer == COVERED and next_piece(rest, best, &word, piece):
            answer = search(piece, others, met, many, left, found)
    free(met)
    return answer


def subtract(match, other):
    cdef uint64_t rest[2 * WORDS]
    cdef uint64_t taken[2 * WORDS]
    cdef uint64_t piece[2 * WORDS]
    cdef int word = WORDS - 1
    cdef list pieces = []
    unpack_pair(match, rest)
    unpack_pair(other, taken)
    if not meet(rest, taken):
        return [pack_match(rest)]
    while next_piece(rest, taken, &word, piece):
        pieces.append(pack_match(piece))
    return pieces


def uncovered(match, others, budget):
    cdef uint64_t asked[2 * WORDS]
    cdef uint64_t found[2 * WORDS]
    cdef uint64_t *packed
    cdef uint32_t *numbers
    cdef int64_t left = budget
    cdef list given = list(others)
    cdef size_t count = len(given), i
    cdef int answer
    unpack_pair(match, asked)
    packed = <uint64_t *>malloc((count + 1) * 2 * WORDS * sizeof(uint64_t))
    numbers = <uint32_t *>malloc((count + 1) * sizeof(uint32_t))
    try:
        if packed == NULL or numbers == NULL or count >= 0xFFFFFFFF:
            raise MemoryError()
        for i in range(count):
            unpack_pair(given[i], packed + i * 2 * WORDS)
            numbers[i] = <uint32_t>i
        answer = search(asked, packed, numbers, <uint32_t>count, &left, found)
    finally:
        free(packed)
        free(numbers)
    if answer == SPENT:
        raise BudgetSpent
    if answer == NO_MEMORY:
        raise MemoryError()
    return pack_match(found) if answer == FOUND else None
