# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The one match of a flowgroup that has only one, packed in a microsecond.

The typed interface is in _fastexpand.pyi.

Nearly every flowgroup is one match: each field is a single prefix. Those of IPv4 and those without an IP field are
packed here; for all others (sets, ranges, IPv6, users) the answer is None, and the general expansion does it.
Invariant: an answer that is not None equals the only element of the general expansion
(tests/property/policy/test_compile.py).
"""

from libc.stdint cimport uint64_t

from ovspane.packets.match import ETH_IPV4, ETH_IPV6, LAYOUT, Match

cdef uint64_t IPV4 = ETH_IPV4, IPV6 = ETH_IPV6

#: the fields, in the order of _NAMES
cdef enum:
    SRC4, DST4, SPORT, DPORT, PROTO, DSCP, ETH_TYPE, SRC_MAC, DST_MAC, VLAN

cdef int[10] WORD
cdef int[10] SHIFT
cdef int[10] WIDTH

_NAMES = ("ipv4_src", "ipv4_dst", "tp_src", "tp_dst", "ip_proto", "ip_dscp", "eth_type", "eth_src", "eth_dst", "vlan")
for _field, _name in enumerate(_NAMES):
    WORD[_field], SHIFT[_field], WIDTH[_field] = LAYOUT[_name][0] // 64, LAYOUT[_name][0] % 64, LAYOUT[_name][1]


cdef inline int prefix(object spans, uint64_t *low, uint64_t *free) except -1:
    """1, with the lowest number and the bits that vary, if the set is one prefix; otherwise 0."""
    cdef tuple all_spans = <tuple?>spans
    cdef tuple span
    cdef uint64_t hi
    if len(all_spans) != 1:
        return 0
    span = <tuple?>all_spans[0]
    if len(span) != 2:
        raise ValueError("a span has two ends")
    low[0], hi = span[0], span[1]
    free[0] = low[0] ^ hi
    return not (free[0] & (free[0] + 1)) and not (low[0] & free[0])


cdef inline void put(int field, uint64_t value, uint64_t mask, uint64_t *match) noexcept:
    match[WORD[field]] |= value << SHIFT[field]
    match[4 + WORD[field]] |= mask << SHIFT[field]


cdef inline int put_set(int field, object spans, uint64_t *match) except -1:
    """1 if the set was one prefix and is in the match now (nothing, if it is the whole field)."""
    cdef uint64_t low = 0, free = 0
    cdef uint64_t whole = (<uint64_t>1 << WIDTH[field]) - 1
    if not prefix(spans, &low, &free):
        return 0
    put(field, low, whole & ~free, match)
    return 1


cdef inline object as_int(const uint64_t *words):
    cdef unsigned char raw[32]
    cdef int w, i
    for w in range(4):
        for i in range(8):
            raw[8 * w + i] = <unsigned char>(words[w] >> 8 * i)
    return int.from_bytes(raw[:32], "little")


cdef int pack(object group, uint64_t *match) except -1:
    """Fill four words of value and four of mask; 0: the flowgroup is not that simple."""
    cdef uint64_t low = 0, free = 0
    cdef int w
    cdef bint ip, ports
    cdef object mac
    if group.src_user is not None or group.dst_user is not None:
        return 0
    for w in range(8):
        match[w] = 0
    if not prefix(group.vlan.spans, &low, &free):
        # the set of all VLANs, 0 .. 4094, is no prefix; the others are none or several
        spans = group.vlan.spans
        if len(spans) != 1 or spans[0] != (0, 4094):
            return 0
    elif free:
        return 0
    else:
        put(VLAN, 0x1000 | low if low else 0, 0x1FFF if low else 0x0FFF, match)  # 0: no tag, or a priority only
    if not prefix(group.eth_type.spans, &low, &free):
        return 0
    put(ETH_TYPE, low, 0xFFFF & ~free, match)
    ip = not free and (low == IPV4 or low == IPV6)
    if ip and low == IPV6:
        return 0
    mac = group.eth_src
    if mac.mask:
        put(SRC_MAC, mac.value, mac.mask, match)
    mac = group.eth_dst
    if mac.mask:
        put(DST_MAC, mac.value, mac.mask, match)
    if ip:
        if not put_set(SRC4, group.src.v4.spans, match) or not put_set(DST4, group.dst.v4.spans, match):
            return 0
        if not put_set(DSCP, group.dscp.spans, match):
            return 0
        if not put_set(SPORT, group.sport.spans, match) or not put_set(DPORT, group.dport.spans, match):
            return 0
        if not prefix(group.transport.spans, &low, &free):
            return 0
        ports = match[4 + WORD[SPORT]] >> SHIFT[DPORT] != 0  # both ports are above everything else in their word
        if ports and free:
            return 0  # one match a protocol (ovs-fields(7), "tcp_src": prerequisite nw_proto)
        put(PROTO, low, 0xFF & ~free, match)
    return 1


def single_match(group):
    cdef uint64_t match[8]
    return tuple.__new__(Match, (as_int(match), as_int(match + 4))) if pack(group, match) else None
