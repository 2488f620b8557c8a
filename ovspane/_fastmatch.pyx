# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The wildcard-intersection engine: an index of 512-bit ternary matches. Compiled; `_fastmatch_py` is its plain twin.

Above: ovspane.overlap, the only importer. Below: nothing. The typed interface is in _fastmatch.pyi.

Layout: a structure of arrays, one value and one mask array per 64-bit word (match.LAYOUT puts the words that tell
most matches apart first). A query reads two of the sixteen arrays, those of its first word that can decide anything,
in blocks of 64, and looks at the other words of the survivors only (engine.md, section 4: memory bandwidth is the
limit).

Invariants: the slots 0 .. n-1 are dense (a removal moves the last one into the gap); `slot_of[handle]` is the slot
whose `handle` is that one; value & ~mask == 0 in each slot. Portable C: no instruction beyond the compiler's
baseline.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

DEF WORDS = 8
DEF BLOCK = 64
DEF LEAST = 64  # slots of the smallest allocation

cdef enum Relation:
    OVERLAPPING = 0
    COVERING = 1
    COVERED = 2


cdef inline uint64_t difference(
    Relation relation, uint64_t value, uint64_t mask, uint64_t asked, uint64_t care
) noexcept nogil:
    """Non-zero iff this word denies that the stored (value, mask) has the relation to the asked (asked, care)."""
    if relation == OVERLAPPING:
        return (value ^ asked) & mask & care
    if relation == COVERING:
        return mask & (~care | (value ^ asked))
    return care & (~mask | (value ^ asked))


cdef int unpack(object number, uint64_t *words, str what) except -1:
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


cdef int unpack_match(object value, object mask, uint64_t *values, uint64_t *masks) except -1:
    cdef int w
    unpack(value, values, "value")
    unpack(mask, masks, "mask")
    for w in range(WORDS):
        if values[w] & ~masks[w]:
            raise ValueError("value has bits outside its mask")
    return 0


@cython.final
cdef class MatchIndex:
    """Matches by handle, with the three bulk queries. See _fastmatch.pyi."""

    cdef uint64_t *value[WORDS]
    cdef uint64_t *mask[WORDS]
    cdef int64_t *handle
    cdef Py_ssize_t used, room
    cdef dict slot_of

    def __cinit__(self):
        memset(self.value, 0, sizeof(self.value))
        memset(self.mask, 0, sizeof(self.mask))
        self.handle = NULL
        self.used = self.room = 0
        self.slot_of = {}

    def __init__(self):
        """Takes no arguments (a __cinit__ alone would ignore any)."""

    def __dealloc__(self):
        cdef int w
        for w in range(WORDS):
            PyMem_Free(self.value[w])
            PyMem_Free(self.mask[w])
        PyMem_Free(self.handle)

    def __len__(self):
        return self.used

    def __contains__(self, handle):
        return handle in self.slot_of

    cdef int resize(self, Py_ssize_t room) except -1:
        """Give every array `room` slots. On MemoryError the arrays that grew already are just larger than
        `self.room`."""
        cdef int w
        cdef void *block
        if room < self.room:
            self.room = room  # before shrinking: a failure half-way must not leave `room` above an array's true size
        for w in range(WORDS):
            block = PyMem_Realloc(self.value[w], room * sizeof(uint64_t))
            if block == NULL:
                raise MemoryError()
            self.value[w] = <uint64_t *>block
            block = PyMem_Realloc(self.mask[w], room * sizeof(uint64_t))
            if block == NULL:
                raise MemoryError()
            self.mask[w] = <uint64_t *>block
        block = PyMem_Realloc(self.handle, room * sizeof(int64_t))
        if block == NULL:
            raise MemoryError()
        self.handle = <int64_t *>block
        self.room = room
        return 0

    def add(self, handle, value, mask):
        cdef uint64_t values[WORDS]
        cdef uint64_t masks[WORDS]
        cdef int64_t number
        cdef int w
        if not isinstance(handle, int):
            raise TypeError(f"handle must be an int, not {type(handle).__name__}")
        if not 0 <= handle < 1 << 63:
            raise ValueError("handle is not in 0 .. 2**63-1")
        number = handle
        if number in self.slot_of:
            raise ValueError(f"handle {handle} is in the index already")
        unpack_match(value, mask, values, masks)
        if self.used == self.room:
            self.resize(max(LEAST, 2 * self.room))
        self.slot_of[number] = self.used
        for w in range(WORDS):
            self.value[w][self.used] = values[w]
            self.mask[w][self.used] = masks[w]
        self.handle[self.used] = number
        self.used += 1

    def remove(self, handle):
        cdef Py_ssize_t slot = self.slot_of.pop(handle)
        cdef Py_ssize_t last = self.used - 1
        cdef int w
        if slot != last:
            for w in range(WORDS):
                self.value[w][slot] = self.value[w][last]
                self.mask[w][slot] = self.mask[w][last]
            self.handle[slot] = self.handle[last]
            self.slot_of[self.handle[last]] = slot
        self.used = last
        if self.room > LEAST and 4 * self.used < self.room:
            self.resize(self.room // 2)

    def overlapping(self, value, mask):
        return self.scan(OVERLAPPING, value, mask)

    def covering(self, value, mask):
        return self.scan(COVERING, value, mask)

    def covered_by(self, value, mask):
        return self.scan(COVERED, value, mask)

    cdef list scan(self, Relation relation, object value, object mask):
        cdef uint64_t asked[WORDS]
        cdef uint64_t care[WORDS]
        cdef uint64_t verdict[BLOCK]
        cdef Py_ssize_t start, size, i, survivors
        cdef int hot = 0, w
        cdef list found = []
        unpack_match(value, mask, asked, care)
        # A word that the query leaves wild decides nothing, except that a match which cares there cannot cover it.
        if relation != COVERING:
            while hot < WORDS - 1 and not care[hot]:
                hot += 1
        for start in range(0, self.used, BLOCK):
            size = min(BLOCK, self.used - start)
            survivors = self.decide(relation, hot, start, size, asked[hot], care[hot], verdict)
            if not survivors:
                continue
            for i in range(size):
                if verdict[i]:
                    continue
                for w in range(hot + 1 if relation != COVERING else 1, WORDS):
                    if difference(relation, self.value[w][start + i], self.mask[w][start + i], asked[w], care[w]):
                        break
                else:
                    found.append(self.handle[start + i])
        return found

    cdef Py_ssize_t decide(
        self, Relation relation, int word, Py_ssize_t start, Py_ssize_t size,
        uint64_t asked, uint64_t care, uint64_t *verdict,
    ) noexcept nogil:
        """Fill verdict[0 .. size-1] with the differences in one word; returns how many are zero."""
        cdef const uint64_t *value = self.value[word] + start
        cdef const uint64_t *mask = self.mask[word] + start
        cdef Py_ssize_t i, survivors = 0
        # one loop a relation: without a branch inside, the compiler vectorises each
        if relation == OVERLAPPING:
            for i in range(size):
                verdict[i] = difference(OVERLAPPING, value[i], mask[i], asked, care)
        elif relation == COVERING:
            for i in range(size):
                verdict[i] = difference(COVERING, value[i], mask[i], asked, care)
        else:
            for i in range(size):
                verdict[i] = difference(COVERED, value[i], mask[i], asked, care)
        for i in range(size):
            survivors += verdict[i] == 0
        return survivors
