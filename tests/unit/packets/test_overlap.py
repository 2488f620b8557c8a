"""The overlap index: the compiled engine and its plain twin, held to the same cases and to Match.overlaps and
Match.covers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from random import Random
from time import thread_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.packets.match import BITS, LAYOUT, Match
from tests.support.patience import LONG, cost

TWINS = ["ovspane._fastmatch", "ovspane._fastmatch_py"]
ONES = (1 << BITS) - 1


@pytest.fixture(params=TWINS)
def make(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param).MatchIndex


#: a few values of a few fields in every word, so that matches meet; and arbitrary bits
FIELDS = st.dictionaries(
    st.sampled_from(["ipv4_src", "ipv4_dst", "tp_dst", "eth_type", "vlan", "in_port", "ipv6_src", "ipv6_dst"]),
    st.integers(0, 2),
    max_size=3,
)
ONES32 = 2**32 - 1
PREFIX = st.integers(0, 32).map(
    lambda length: (0xA0000000 & (ONES32 << (32 - length)), ONES32 << (32 - length) & ONES32)
)
BIT = st.integers(0, BITS - 1)
MATCHES = st.one_of(
    FIELDS.map(lambda fields: Match.of(**fields)),
    PREFIX.map(lambda prefix: Match.of(ipv4_src=prefix)),
    st.tuples(st.sets(BIT, max_size=3), st.sets(BIT, max_size=3)).map(
        lambda sets: Match(sum(1 << bit for bit in sets[0]), sum(1 << bit for bit in sets[0] | sets[1]))
    ),
)


def check_queries(index: Any, known: dict[int, Match], query: Match) -> None:
    asked = query.value, query.mask
    met = sorted(h for h, match in known.items() if match.overlaps(query))
    assert sorted(index.overlapping(*asked)) == met
    assert index.overlaps_any(*asked) == bool(met)
    for limit in (0, 1, 2, len(met), len(met) + 1):
        some = index.overlapping(*asked, None, limit)
        assert (len(some), len(set(some)), set(some) <= set(met)) == (min(limit, len(met)), len(some), True)
    assert sorted(index.covering(*asked)) == sorted(h for h, match in known.items() if match.covers(query))
    assert sorted(index.covered_by(*asked)) == sorted(h for h, match in known.items() if query.covers(match))


@settings(max_examples=150, deadline=None)
@given(
    matches=st.lists(MATCHES, max_size=12),
    queries=st.lists(MATCHES, min_size=1, max_size=4),
    twin=st.sampled_from(TWINS),
)
def test_queries_are_those_of_match(matches: list[Match], queries: list[Match], twin: str) -> None:
    index = importlib.import_module(twin).MatchIndex()
    known = dict(enumerate(matches))
    for handle, match in known.items():
        index.add(handle, match.value, match.mask)
    for query in queries:
        check_queries(index, known, query)


def random_match(rng: Random) -> Match:
    fields = {}
    for name in rng.sample(sorted(LAYOUT), rng.randint(0, 4)):
        width = LAYOUT[name][1]
        mask = rng.choice(((1 << width) - 1, rng.getrandbits(width)))
        fields[name] = (rng.choice((0, 1, 3)) & mask, mask)
    return Match.of(**fields)


def test_random_additions_and_removals_over_many_blocks(make: Any) -> None:
    """Several thousand slots: growth, holes filled by the last one, shrinking, down to nothing and up again."""
    rng = Random(3)
    index = make()
    known: dict[int, Match] = {}
    for target in (1500, 700, 2000, 63, 64, 65, 0, 130, 1):
        while len(known) != target:
            if len(known) < target:
                handle = rng.getrandbits(62)
                known[handle] = random_match(rng)
                index.add(handle, known[handle].value, known[handle].mask)
            else:
                handle = rng.choice(list(known))
                del known[handle]
                index.remove(handle)
        assert len(index) == len(known)
        assert all(handle in index for handle in known)
        assert -1 not in index
        for _ in range(15):
            check_queries(index, known, random_match(rng))
        check_queries(index, known, Match(0, 0))
        check_queries(index, known, Match(ONES, ONES))


#: fields and masks as policies have them, and as an adversary has them
SHAPES: dict[str, Any] = {
    "tuples": lambda rng: Match.of(
        eth_type=0x800, ipv4_src=rng.randrange(64), ipv4_dst=rng.randrange(64), ip_proto=6, tp_dst=rng.randrange(4)
    ),
    "prefixes": lambda rng: Match.of(
        ipv4_src=prefix(rng, 32),
        ipv4_dst=prefix(rng, 32),
        ip_proto=rng.choice(((0, 0), (6, 0xFF))),
        tp_dst=prefix(rng, 16),
    ),
    "IPv6": lambda rng: Match.of(eth_type=0x86DD, ipv6_src=prefix(rng, 128), ipv6_dst=prefix(rng, 128)),
    "any bits": lambda rng: any_bits(rng, rng.choice((2, 6, 40))),
    "any": lambda rng: random_match(rng),
}


def prefix(rng: Random, width: int) -> tuple[int, int]:
    length = rng.randint(0, width)
    mask = ((1 << length) - 1) << (width - length)
    return rng.choice((0, 1 << (width - 1), rng.getrandbits(width))) & mask, mask


def any_bits(rng: Random, count: int) -> Match:
    mask = sum({1 << rng.randrange(BITS) for _ in range(count)})
    return Match(rng.getrandbits(BITS) & mask, mask)


@pytest.mark.parametrize("shape", SHAPES)
def test_groups_and_probes_against_the_definition(shape: str) -> None:
    """Large groups, more kinds of queries than a group has probes, removals between them: still exact."""
    rng = Random(shape)
    compiled = importlib.import_module(TWINS[0]).MatchIndex()
    known: dict[int, Match] = {}
    for step in range(3_000):
        if step % 3 == 2 and rng.random() < 0.8:
            handle = rng.choice(list(known))
            del known[handle]
            compiled.remove(handle)
        else:
            known[step] = SHAPES[shape](rng)
            compiled.add(step, known[step].value, known[step].mask, step % 5)
        if step % 50 == 0:
            check_queries(compiled, known, SHAPES[rng.choice([shape, *SHAPES])](rng))
    for handle in known:
        compiled.remove(handle)
    assert (len(compiled), compiled.overlapping(0, 0)) == (0, [])


def test_tags_and_missing(make: Any) -> None:
    """`skip` passes over tags, whatever is beyond its end is not flagged; `missing` is a difference of two queries."""
    rng = Random(9)
    for _ in range(40):
        index, other = make(), make()
        known = {handle: (random_match(rng), rng.randrange(6)) for handle in range(rng.choice((5, 40)))}
        for handle, (match, tag) in known.items():
            index.add(handle, match.value, match.mask, 0)
            index.retag(handle, tag)
        others = [random_match(rng) for _ in range(rng.randrange(4))]
        for handle, match in enumerate(others):
            other.add(handle, match.value, match.mask)
        query = rng.choice([random_match(rng), Match(0, 0)])
        asked = query.value, query.mask
        met = {handle: tag for handle, (match, tag) in known.items() if match.overlaps(query)}
        flags = bytes(rng.choice((0, 0, 1, 255)) for _ in range(rng.randrange(8)))
        unflagged = {handle for handle, tag in met.items() if tag >= len(flags) or not flags[tag]}
        assert sorted(index.overlapping_tags(*asked)) == sorted(set(met.values()))
        assert set(index.overlapping(*asked, flags)) == unflagged
        assert set(index.overlapping(*asked, bytearray(flags))) == unflagged
        alone = {h for h in unflagged if not any(known[h][0].overlaps(one) for one in others)}
        assert set(index.missing(*asked, other, flags)) == alone
        assert index.missing(*asked, index) == []
        module = importlib.import_module(make.__module__)
        assert module.overlapped([index, other, make()], *asked) == [
            position for position, one in enumerate((index, other)) if one.overlaps_any(*asked)
        ]


def test_what_is_no_tag_limit_or_index_is_refused(make: Any) -> None:
    index = make()
    for tag, error in ((-1, ValueError), (1 << 31, ValueError), ("0", TypeError), (None, TypeError)):
        with pytest.raises(error):
            index.add(1, 0, 0, tag)
    assert len(index) == 0
    index.add(1, 0, 0, (1 << 31) - 1)
    for wrong in (lambda: index.retag(2, 0), lambda: index.retag(-1, 0), lambda: index.remove("x")):
        with pytest.raises(KeyError):
            wrong()
    with pytest.raises(ValueError, match="negative"):
        index.overlapping(0, 0, None, -1)
    for wrong in (lambda: index.overlapping(0, 0, "flags"), lambda: index.missing(0, 0, None)):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(TypeError):
        importlib.import_module(make.__module__).overlapped([index, None], 0, 0)


@pytest.mark.parametrize("shape", ["masks", "fields", "one group"])
def test_no_call_is_slow_whatever_the_masks_are(shape: str) -> None:
    """100 000 matches of adversarial masks: as many different ones as there are, as many groups as there can be, and
    all alike but in a bit that no probe looks at. No single call costs four times what a look at each of the matches
    does, in plain Python."""
    rng = Random(shape)
    index = importlib.import_module(TWINS[0]).MatchIndex()
    names = sorted(LAYOUT)

    def wanted() -> Match:
        if shape == "masks":
            return any_bits(rng, 20)
        if shape == "one group":
            return Match(rng.getrandbits(7) << 96, 0x7F << 96)
        return Match.of(**{name: rng.choice((0, 1)) for name in names if rng.random() < 0.5}, ipv4_src=prefix(rng, 32))

    if shape == "fields":
        names.remove("ipv4_src")
    matches = [wanted() for _ in range(100_000)]
    queries = [wanted() for _ in range(40)] + [any_bits(rng, 300) for _ in range(40)]
    slow = []

    def timed(call: Any, *arguments: Any) -> None:
        start = thread_time()
        call(*arguments)
        slow.append(thread_time() - start)

    for handle, match in enumerate(matches):
        timed(index.add, handle, match.value, match.mask)
    for query in queries:
        timed(index.overlaps_any, query.value, query.mask)
        timed(index.overlapping, query.value, query.mask, None, 1000)
        timed(index.covering, query.value, query.mask)
    assert sys.getsizeof(index) < 600 * len(matches)
    for handle in range(0, 100_000, 2):
        timed(index.remove, handle)
    query = queries[0]
    control = cost(lambda: sum(not (match.value ^ query.value) & match.mask & query.mask for match in matches))
    print(
        f"slowest calls {[round(1000 * each, 2) for each in sorted(slow)[-3:]]} ms; a look at all "
        f"{1000 * control:.0f} ms"
    )
    # garbage is collected now and then: a stall of our own making would come again and again
    assert sorted(slow)[-3] < 4 * control


def test_the_empty_index(make: Any) -> None:
    index = make()
    assert (len(index), 0 in index, "x" in index) == (0, False, False)
    assert (index.overlapping(0, 0), index.covering(ONES, ONES), index.covered_by(0, 0)) == ([], [], [])
    with pytest.raises(KeyError):
        index.remove(0)


@pytest.mark.parametrize(
    ("value", "mask", "error"),
    [
        (-1, 0, ValueError),
        (0, -1, ValueError),
        (0, 1 << 512, ValueError),
        (1 << 512, ONES, ValueError),
        (1 << 5000, 1 << 5000, ValueError),
        (1, 0, ValueError),
        (1 << 511, ONES >> 1, ValueError),
        ("0", 0, TypeError),
        (0, None, TypeError),
        (0.0, 0, TypeError),
        (b"", 0, TypeError),
        ([], {}, TypeError),
    ],
)
def test_what_is_no_match_is_refused(make: Any, value: Any, mask: Any, error: type[Exception]) -> None:
    index = make()
    index.add(1, 0, 0)
    for ask in (lambda v, m: index.add(2, v, m), index.overlapping, index.covering, index.covered_by):
        with pytest.raises(error):
            ask(value, mask)
    assert (len(index), 2 in index, index.overlapping(0, 0)) == (1, False, [1])


@pytest.mark.parametrize(
    ("handle", "error"), [(-1, ValueError), (1 << 63, ValueError), ("7", TypeError), (None, TypeError)]
)
def test_what_is_no_handle_is_refused(make: Any, handle: Any, error: type[Exception]) -> None:
    index = make()
    with pytest.raises(error):
        index.add(handle, 0, 0)
    with pytest.raises(KeyError):
        index.remove(handle)
    assert len(index) == 0


def test_handles_are_unique_and_span_63_bits(make: Any) -> None:
    index = make()
    last = (1 << 63) - 1
    index.add(last, 1, 1)
    with pytest.raises(ValueError, match="already"):
        index.add(last, 0, 0)
    assert index.overlapping(1, 1) == [last]
    index.remove(last)
    with pytest.raises(KeyError):
        index.remove(last)
    index.add(last, 0, 1)
    assert index.overlapping(1, 1) == []


def test_arguments_are_counted_not_trusted(make: Any) -> None:
    index = make()
    for call in (index.add, index.remove, index.overlapping, index.covering, index.covered_by):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError):
        make(1)


def test_memory_is_given_back() -> None:
    """A thousand indexes of a thousand matches (2 GB if none were freed) and one that
    grows until it is refused, in 200 MB of address space."""
    script = (
        "import resource\n"
        "from ovspane._fastmatch import MatchIndex\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "hard = resource.getrlimit(resource.RLIMIT_AS)[1]\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), hard))\n"
        "for _ in range(1000):\n"
        "    index = MatchIndex()\n"
        "    for handle in range(1000): index.add(handle, handle, 0xFFFF)\n"
        "    del index\n"
        "many = MatchIndex()\n"
        "try:\n"
        "    for handle in range(10_000_000): many.add(handle, 0, 0)\n"
        "except MemoryError:\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))\n"
        "    print('full', len(many) > 100_000, len(many.overlapping(0, 0)) == len(many))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG)
    assert (done.stdout, done.returncode) == ("full True True\n", 0), done.stderr
