"""Who owns which flow: the keys (stage, index, priority, match) of the network flow table, and the entries that claim
each.

Inline functions only. The claims of a key form a pairing heap (Fredman et al., 1986) by request id: the lowest is the
root, and owns the key; a new claim costs O(1), one that goes O(log n) amortised.

Invariants: between two updates every key has an owner; `touch` has each key whose claims changed since
`forget_touches`, in the order of their first change, with what its owner was before; `owned` counts the keys that have
an owner.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ovspane.policy.compiler._fastentries cimport Entries, Entry, Matches, grown, release
from ovspane._fastmatch_words cimport NIL, resized

cdef struct Key:
    uint32_t match
    uint32_t root  # the owner's claim
    uint32_t chain  # of its bucket; of a free one, the next free one
    uint32_t touched  # its number in `touch`, or NIL
    uint16_t index, priority
    uint8_t stage

cdef struct Claim:
    uint32_t entry, key
    uint32_t next  # of the same entry; of a free one, the next free one
    uint32_t child, sibling
    uint32_t before  # the sibling before it or, of the first child, the parent

cdef struct Touch:
    uint32_t key
    bint there  # whether the key had an owner
    int64_t request, rate, slot

cdef struct Flows:
    Key *key
    uint32_t keys, key_room, free_key, used_keys, owned
    uint32_t *head
    uint32_t buckets  # a power of two
    Claim *claim
    uint32_t claims, claim_room, free_claim
    Touch *touch
    uint32_t touched, touch_room


# --- the keys

cdef inline uint32_t key_bucket(const Flows *flows, uint32_t match, uint8_t stage, uint16_t index, uint16_t priority) noexcept nogil:
    cdef uint64_t mixed = <uint64_t>match << 32 | <uint64_t>stage << 30 ^ <uint64_t>index << 16 | priority
    mixed = (mixed ^ mixed >> 29) * <uint64_t>0xBF58476D1CE4E5B9
    return <uint32_t>(mixed >> 32) & (flows.buckets - 1)


cdef inline uint32_t find_key(const Flows *flows, uint32_t match, uint8_t stage, uint16_t index, uint16_t priority) noexcept nogil:
    cdef uint32_t number
    cdef const Key *key
    if not flows.buckets:
        return NIL
    number = flows.head[key_bucket(flows, match, stage, index, priority)]
    while number != NIL:
        key = &flows.key[number]
        if key.match == match and key.priority == priority and key.index == index and key.stage == stage:
            return number
        number = key.chain
    return NIL


cdef inline bint rebucket_keys(Flows *flows, uint32_t buckets) noexcept nogil:
    cdef uint32_t i, b
    cdef Key *key
    if not resized(<void **>&flows.head, <size_t>buckets * sizeof(uint32_t)):
        return False
    flows.buckets = buckets
    memset(flows.head, 0xFF, <size_t>buckets * sizeof(uint32_t))
    for i in range(flows.keys):
        key = &flows.key[i]
        if key.match != NIL:
            b = key_bucket(flows, key.match, key.stage, key.index, key.priority)
            key.chain = flows.head[b]
            flows.head[b] = i
    return True


cdef inline uint32_t new_key(
    Flows *flows, Matches *matches, uint32_t match, uint8_t stage, uint16_t index, uint16_t priority
) noexcept nogil:
    cdef uint32_t number, b
    cdef Key *key
    if flows.used_keys >= flows.buckets and not rebucket_keys(flows, max(<uint32_t>16, 2 * flows.buckets)):
        return NIL
    number = flows.free_key
    if number != NIL:
        flows.free_key = flows.key[number].chain
    else:
        if not grown(<void **>&flows.key, &flows.key_room, flows.keys + 1, sizeof(Key)):
            return NIL
        number = flows.keys
        flows.keys += 1
    b = key_bucket(flows, match, stage, index, priority)
    key = &flows.key[number]
    key.match, key.root, key.touched, key.chain = match, NIL, NIL, flows.head[b]
    key.stage, key.index, key.priority = stage, index, priority
    matches.at[match].uses += 1
    flows.head[b] = number
    flows.used_keys += 1
    return number


cdef inline void drop_key(Flows *flows, Matches *matches, uint32_t number) noexcept nogil:
    cdef Key *key = &flows.key[number]
    cdef uint32_t *link = &flows.head[key_bucket(flows, key.match, key.stage, key.index, key.priority)]
    while link[0] != number:
        link = &flows.key[link[0]].chain
    link[0] = key.chain
    release(matches, key.match)
    key.match, key.chain = NIL, flows.free_key
    flows.free_key = number
    flows.used_keys -= 1


cdef inline bint touch(Flows *flows, const Entries *entries, uint32_t number) noexcept nogil:
    """Remember what a key's owner was when it changed first; False if there is no memory."""
    cdef Key *key = &flows.key[number]
    cdef Touch *before
    cdef const Entry *owner
    if key.touched != NIL:
        return True
    if not grown(<void **>&flows.touch, &flows.touch_room, flows.touched + 1, sizeof(Touch)):
        return False
    before = &flows.touch[flows.touched]
    key.touched = flows.touched
    flows.touched += 1
    before.key, before.there = number, key.root != NIL
    if before.there:
        owner = &entries.at[flows.claim[key.root].entry]
        before.request, before.rate, before.slot = owner.request, owner.rate, owner.slot
    return True


cdef inline void forget_touch(Flows *flows, Matches *matches, uint32_t number) noexcept nogil:
    """Done with the key of a touch; it ends if nobody claims it."""
    cdef uint32_t key = flows.touch[number].key
    flows.key[key].touched = NIL
    if flows.key[key].root == NIL:
        drop_key(flows, matches, key)


# --- the claims of a key

cdef inline uint32_t meld(Flows *flows, const Entries *entries, uint32_t one, uint32_t other) noexcept nogil:
    """One heap of two (neither NIL); its root."""
    cdef Claim *claim = flows.claim
    cdef int64_t first = entries.at[claim[one].entry].request, second = entries.at[claim[other].entry].request
    if second < first or (second == first and claim[other].entry < claim[one].entry):
        one, other = other, one
    claim[other].sibling, claim[other].before = claim[one].child, one
    if claim[one].child != NIL:
        claim[claim[one].child].before = other
    claim[one].child = other
    claim[one].sibling = claim[one].before = NIL
    return one


cdef inline uint32_t melded_children(Flows *flows, const Entries *entries, uint32_t first) noexcept nogil:
    """One heap of a list of siblings, in two passes: pairs from the left, then all of them from the right; NIL if there are none."""
    cdef Claim *claim = flows.claim
    cdef uint32_t pairs = NIL, one, other, after
    while first != NIL:
        one, other = first, claim[first].sibling
        after = NIL
        if other != NIL:
            after = claim[other].sibling
            one = meld(flows, entries, one, other)
        claim[one].sibling = pairs
        pairs = one
        first = after
    if pairs == NIL:
        return NIL
    one = pairs
    other = claim[one].sibling
    claim[one].sibling = claim[one].before = NIL
    while other != NIL:
        after = claim[other].sibling
        one = meld(flows, entries, one, other)
        other = after
    return one


cdef inline bint put_claim(
    Flows *flows, Entries *entries, Matches *matches, uint32_t entry, uint8_t stage, uint16_t index, uint16_t priority
) noexcept nogil:
    """Have an entry claim a key of its match; False if there is no memory."""
    cdef uint32_t match = entries.at[entry].match, number = flows.free_claim, key_number
    cdef Key *key
    cdef Claim *claim
    if number == NIL:
        if not grown(<void **>&flows.claim, &flows.claim_room, flows.claims + 1, sizeof(Claim)):
            return False
        number = flows.claims
    key_number = find_key(flows, match, stage, index, priority)
    if key_number == NIL:
        key_number = new_key(flows, matches, match, stage, index, priority)
        if key_number == NIL:
            return False
    if not touch(flows, entries, key_number):
        return False
    if number == flows.claims:
        flows.claims += 1
    else:
        flows.free_claim = flows.claim[number].next
    claim, key = &flows.claim[number], &flows.key[key_number]
    claim.entry, claim.key, claim.next = entry, key_number, entries.at[entry].claims
    claim.child = claim.sibling = claim.before = NIL
    entries.at[entry].claims = number
    if key.root == NIL:
        key.root = number
        flows.owned += 1
    else:
        key.root = meld(flows, entries, key.root, number)
    return True


cdef inline bint drop_claim(Flows *flows, const Entries *entries, uint32_t number) noexcept nogil:
    """Take a claim out of its key, and free it; its entry's list is the caller's business. False if there is no memory."""
    cdef Claim *claim = &flows.claim[number]
    cdef Key *key = &flows.key[claim.key]
    cdef uint32_t rest
    if not touch(flows, entries, claim.key):
        return False
    rest = melded_children(flows, entries, claim.child)
    if key.root == number:
        key.root = rest
        flows.owned -= rest == NIL
    else:
        if flows.claim[claim.before].child == number:
            flows.claim[claim.before].child = claim.sibling
        else:
            flows.claim[claim.before].sibling = claim.sibling
        if claim.sibling != NIL:
            flows.claim[claim.sibling].before = claim.before
        if rest != NIL:
            key.root = meld(flows, entries, key.root, rest)
    claim.next = flows.free_claim
    flows.free_claim = number
    return True
