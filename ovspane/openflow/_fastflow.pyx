# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Flows to bytes and back by the ten thousand, in C. _fastflow_py is the same in plain Python; the typed interface is in
_fastflow.pyi.

A match is a template of its shape (oxm.plan: what depends on the mask, EtherType, protocol and mark) into which the
values are copied. Instructions are encoded once and found again by their fields, whichever these are. Invariant: both
give the same bytes and the same flows (tests/unit/openflow/test_bulk.py).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from dataclasses import fields

from ovspane.packets.match import BITS, LAYOUT, Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, Instructions
from ovspane.openflow.bundles import bundle_add
from ovspane.openflow.constants import ADD, ATOMIC_ORDERED, BUNDLE_ADD, DELETE_STRICT, FLOW_MOD, VERSION
from ovspane.openflow.errors import OpenFlowError
from ovspane.openflow.flow_mods import flow_mod
from ovspane.openflow.instructions import encode_instructions
from ovspane.openflow.oxm import encode_match, plan

cdef enum:
    PACKED = 64          # bytes of a packed value
    LONGEST = 1024       # bytes of the longest match of LAYOUT's fields, and more
    MOST_COPIES = 32
    KEPT = 4096          # shapes, and instructions, that are remembered
    HEAD = 64            # bundle-add and flow-mod up to the match
    STATS = 48           # a flow entry up to the match
    WORDS = 8
    # where in the packed value, big end first, these fields are (LAYOUT, checked below)
    MARK_BYTE = 46
    MARK_BIT = 1 << 5
    ETH_TYPE = 54
    PROTO = 52

assert (LAYOUT["mark"], LAYOUT["eth_type"], LAYOUT["ip_proto"]) == ((128 + 13, 1), (64, 16), (64 + 24, 8))

cdef object ALL_BITS = (1 << BITS) - 1
cdef object IN_PORT_MASK = 0xFFFF << LAYOUT["in_port"][0]
cdef tuple NAMES = tuple(field.name for field in fields(Instructions))
cdef dict shapes = {}
cdef dict known_instructions = {}
cdef uint64_t OUR_COOKIE = COOKIE_TAG, OUR_MASK = COOKIE_MASK


cdef class Shape:
    """Matches with the same mask, EtherType, protocol and mark."""

    cdef bytes template
    cdef int copies
    cdef int[MOST_COPIES] source
    cdef int[MOST_COPIES] target
    cdef int[MOST_COPIES] length
    cdef uint64_t[WORDS] wild


cdef Shape shape_of(object match, object mask, int eth_type, int proto, int mark):
    """Raises ValueError if such a match cannot be expressed."""
    cdef Shape shape = Shape.__new__(Shape)
    cdef bytes wild = (~mask & ALL_BITS).to_bytes(PACKED, "big")
    parts = []
    at = 4
    for part in plan(mask, eth_type if mask >> 64 & 0xFFFF == 0xFFFF else None,
                     proto if mask >> (64 + 24) & 0xFF == 0xFF else None, mark):
        if isinstance(part, bytes):
            parts.append(part)
            at += len(part)
            continue
        if shape.copies == MOST_COPIES:
            raise ValueError("too many fields")
        shape.source[shape.copies], shape.target[shape.copies] = part.start, at
        shape.length[shape.copies] = part.stop - part.start
        shape.copies += 1
        parts.append(bytes(part.stop - part.start))
        at += part.stop - part.start
    if at > LONGEST - 8:
        raise ValueError("too many fields")
    shape.template = b"\x00\x01" + at.to_bytes(2, "big") + b"".join(parts) + bytes(-at % 8)
    memcpy(shape.wild, PyBytes_AS_STRING(wild), PACKED)
    return shape


cdef int put_match(object match, uint8_t *out) except -1:
    """Write the ofp_match; its length, or 0 if it is not of the usual kind. Raises ValueError."""
    cdef uint64_t[WORDS] packed
    cdef uint8_t *data = <uint8_t *>packed
    cdef object value, mask
    cdef bytes raw
    cdef Shape shape
    cdef int i, mark
    if type(match) is not Match:
        return 0
    value, mask = match
    if mask <= 0 or mask > ALL_BITS or mask & IN_PORT_MASK:
        return 0
    try:
        raw = value.to_bytes(PACKED, "big")
    except OverflowError:
        return 0
    memcpy(data, PyBytes_AS_STRING(raw), PACKED)
    mark = data[MARK_BYTE] & MARK_BIT != 0
    key = (mask, data[ETH_TYPE] << 17 | data[ETH_TYPE + 1] << 9 | data[PROTO] << 1 | mark)
    found = shapes.get(key)
    if found is None:
        found = shape_of(match, mask, data[ETH_TYPE] << 8 | data[ETH_TYPE + 1], data[PROTO], mark)
        if len(shapes) >= KEPT:
            shapes.clear()
        shapes[key] = found
    shape = <Shape>found
    for i in range(WORDS):
        if packed[i] & shape.wild[i]:
            return 0  # value bits outside the mask: the general encoder says so
    data[MARK_BYTE] &= ~MARK_BIT
    memcpy(out, PyBytes_AS_STRING(shape.template), PyBytes_GET_SIZE(shape.template))
    for i in range(shape.copies):
        memcpy(out + shape.target[i], data + shape.source[i], shape.length[i])
    return PyBytes_GET_SIZE(shape.template)


cdef bytes instructions_of(object instructions):
    """Raises ValueError."""
    key = tuple([getattr(instructions, name) for name in NAMES])
    found = known_instructions.get(key)
    if found is None:
        found = encode_instructions(instructions)
        if len(known_instructions) >= KEPT:
            known_instructions.clear()
        known_instructions[key] = found
    return <bytes>found


cdef inline void put16(uint8_t *out, uint16_t value) noexcept:
    out[0], out[1] = value >> 8, value & 0xFF


cdef inline void put32(uint8_t *out, uint32_t value) noexcept:
    put16(out, value >> 16)
    put16(out + 2, value & 0xFFFF)


cdef inline void put64(uint8_t *out, uint64_t value) noexcept:
    put32(out, value >> 32)
    put32(out + 4, value & 0xFFFFFFFF)


cdef class Buffer:
    """Bytes that grow."""

    cdef uint8_t *data
    cdef size_t used, size

    def __dealloc__(self):
        free(self.data)

    cdef uint8_t *room(self, size_t more) except NULL:
        """Where the next `more` bytes go."""
        cdef uint8_t *data
        if self.used + more > self.size:
            self.size = 2 * (self.used + more)
            data = <uint8_t *>realloc(self.data, self.size)
            if data == NULL:
                raise MemoryError
            self.data = data
        return self.data + self.used


def bundle_adds(int command, list rules, uint32_t bundle, uint32_t xid):
    cdef Buffer buffer = Buffer.__new__(Buffer)
    cdef uint8_t *out
    cdef bytes instructions, whole
    cdef int length, table, priority
    cdef uint64_t cookie
    for rule in rules:
        instructions = b"" if command == DELETE_STRICT else instructions_of(rule.instructions)
        out = buffer.room(HEAD + LONGEST + PyBytes_GET_SIZE(instructions))
        length = put_match(rule.match, out + HEAD)
        table, priority = rule.table, rule.priority
        if not length or not 0 <= table <= 0xFF or not 0 <= priority <= 0xFFFF:
            whole = bundle_add(bundle, flow_mod(command, rule, xid), xid)
            out = buffer.room(PyBytes_GET_SIZE(whole))
            memcpy(out, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
            buffer.used += PyBytes_GET_SIZE(whole)
            xid += 1
            continue
        try:
            cookie = rule.cookie
        except OverflowError as problem:
            raise ValueError(f"{rule}: {problem}") from None
        memcpy(out + HEAD + length, PyBytes_AS_STRING(instructions), PyBytes_GET_SIZE(instructions))
        length += HEAD + PyBytes_GET_SIZE(instructions)
        out[0], out[1] = VERSION, BUNDLE_ADD
        put16(out + 2, length)
        put32(out + 4, xid)
        put32(out + 8, bundle)
        put32(out + 12, ATOMIC_ORDERED)
        out[16], out[17] = VERSION, FLOW_MOD
        put16(out + 18, length - 16)
        put32(out + 20, xid)
        put64(out + 24, cookie if command == ADD else OUR_COOKIE)
        put64(out + 32, 0 if command == ADD else OUR_MASK)
        out[40], out[41] = table, command
        put32(out + 42, 0)  # no time limits
        put16(out + 46, priority)
        memset(out + 48, 0xFF, 12)  # no buffer, any port, any group
        put32(out + 60, 0)
        buffer.used += length
        xid += 1
    return PyBytes_FromStringAndSize(<char *>buffer.data, buffer.used) if buffer.used else b""


def identities(rules):
    cdef dict found = {}
    cdef uint8_t[11 + LONGEST] out
    cdef bytes instructions, match
    cdef int length, table, priority
    cdef uint64_t cookie
    for rule in rules:
        try:
            instructions = instructions_of(rule.instructions)
            length = put_match(rule.match, out + 11)
            table, priority, cookie = rule.table, rule.priority, rule.cookie
            if not 0 <= table <= 0xFF or not 0 <= priority <= 0xFFFF:
                continue
            out[0] = table
            put16(out + 1, priority)
            put64(out + 3, cookie)
            if length:
                found[PyBytes_FromStringAndSize(<char *>out, 11 + length) + instructions] = rule
            else:
                match = encode_match(rule.match)
                found[PyBytes_FromStringAndSize(<char *>out, 11) + match + instructions] = rule
        except (ValueError, OverflowError):
            pass  # it cannot be on a switch
    return found


def recognise(bytes part, dict known):
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(part)
    cdef Py_ssize_t at = 0, end = PyBytes_GET_SIZE(part), length, i
    cdef list rules = [], others = []
    cdef bytes identity
    cdef uint8_t *out
    cdef bint usual
    while at < end:
        length = data[at] << 8 | data[at + 1] if end - at >= 2 else 0
        if length < 56 or at + length > end:
            raise OpenFlowError(f"flow entry of length {length} in {end - at} bytes")
        usual = True
        for i in range(at + 14, at + 22):  # time limits, flags, importance
            usual &= not data[i]
        if usual:
            identity = PyBytes_FromStringAndSize(NULL, 11 + length - STATS)
            out = <uint8_t *>PyBytes_AS_STRING(identity)
            out[0] = data[at + 2]
            memcpy(out + 1, data + at + 12, 2)
            memcpy(out + 3, data + at + 24, 8)
            memcpy(out + 11, data + at + STATS, length - STATS)
            rule = known.get(identity)
            if rule is not None:
                rules.append(rule)
                at += length
                continue
        others.append(part[at : at + length])
        at += length
    return rules, others
