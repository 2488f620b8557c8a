"""The stages of limits are what their definition says, whatever came and went, and what is refused or undone leaves no
trace."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.statements import Kind
from ovspane.packets.fields import AddressSet
from ovspane.packets.flowgroup import Flowgroup, normalise
from ovspane.packets.intervals import IntervalSet
from ovspane.packets.match import Match
from ovspane.policy.compiler.bounds import LIMIT_STAGES
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.limit_stages import LimitStages, NewLimit, narrowness
from ovspane.policy.model.tree import ActiveRequest, PolicyTree
from tests.support import workload
from tests.support.oracle import passed
from tests.support.workload import History

Matches = tuple[Match, ...]
Limits = dict[int, tuple[int, Matches]]


def by_definition(limits: Limits) -> dict[int, int]:
    """request -> stage, of those with a meter: pair by pair."""
    groups: dict[Matches, list[tuple[int, int]]] = {}
    for request, (rate, matches) in limits.items():
        groups.setdefault(matches, []).append((rate, request))
    stages: dict[Matches, int] = {}
    for group in sorted(groups, key=narrowness):
        below = [stage for other, stage in stages.items() if any(a.overlaps(b) for a in group for b in other)]
        stages[group] = 1 + max(below, default=-1)
    return {min(members)[1]: stages[group] for group, members in groups.items()}


_FIELDS = (("ipv4_src", 32), ("ipv4_dst", 32), ("tp_dst", 16))


@st.composite
def groups(draw: st.DrawFn) -> Matches:
    """One match over few values, or two that differ in a field that the others do not name."""
    fields = {}
    for name, width in _FIELDS:
        length = draw(st.sampled_from([0, 0, 1, 2]))
        if length:
            mask = (1 << length) - 1 << width - length
            fields[name] = draw(st.integers(0, (1 << length) - 1)) << width - length, mask
    if draw(st.booleans()):
        return (Match.of(**fields),)
    return tuple(sorted((Match.of(**fields, vlan=1), Match.of(**fields, vlan=2))))


steps = st.lists(
    st.tuples(
        st.lists(st.tuples(groups(), st.integers(1, 3)), max_size=4),  # what comes, with its rate
        st.lists(st.integers(0, 20), max_size=3),  # the positions of what goes
        st.sampled_from([None, None, 2, 4]),  # the bound
        st.booleans(),  # it is taken back
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_stages_are_those_of_the_definition(
    chosen: list[tuple[list[tuple[Matches, int]], list[int], int, bool]],
) -> None:
    stages, limits, last = LimitStages(), Limits(), 0
    standing: dict[int, object] = {}
    for coming, positions, most, back in chosen:
        numbers = sorted(limits)
        gone = sorted({numbers[at % len(numbers)] for at in positions} if numbers else set())
        new = [NewLimit(last + at, rate, matches) for at, (matches, rate) in enumerate(coming, 1)]
        if gone and new:  # one is in both halves, as that of a user that moves
            new[0] = new[0]._replace(request=gone[0])
        last += len(coming)
        wanted = {number: limit for number, limit in limits.items() if number not in gone}
        wanted |= {limit.request: (limit.rate, limit.matches) for limit in new}
        changed = stages.change(gone, new, most)
        if changed is None:
            assert most is not None
            assert max(by_definition(wanted).values()) >= most
        elif back:
            stages.undo()
        else:
            limits = wanted
        now = {number: stages.standing(number) for number in limits}
        assert {number: found.stage for number, found in now.items() if found} == by_definition(limits)
        if changed is not None and not back:
            moved = {number for number in now.keys() | standing.keys() if now.get(number) != standing.get(number)}
            assert moved <= {*changed, *gone, *(limit.request for limit in new)}
        standing = dict(now)
        assert all((number in stages) == (number in limits) for number in range(last + 1))


def test_what_fits_with_all_fits_with_any_part() -> None:
    rng = Random(3)
    for _ in range(60):
        drawn = {number: (1, (random_match(rng),)) for number in range(12)}
        whole = by_definition(drawn)
        part = by_definition({number: limit for number, limit in drawn.items() if rng.random() < 0.6})
        assert all(stage <= whole.get(number, LIMIT_STAGES) for number, stage in part.items())


def random_match(rng: Random) -> Match:
    fields = {}
    for name, width in _FIELDS:
        if length := rng.choice((0, 0, 1, 2)):
            fields[name] = rng.randrange(1 << length) << width - length, (1 << length) - 1 << width - length
    return Match.of(**fields)


def limit(stages: LimitStages, number: int, rate: int = 1, **fields: object) -> int:
    group = normalise(Flowgroup(**fields))  # type: ignore[arg-type]
    stages.change((), (NewLimit(number, rate, tuple(group.matches())),))
    found = stages.standing(number)
    assert found is not None
    return found.stage


def test_the_narrower_comes_first_whatever_came_first() -> None:
    """What a tenant's own limit drops does not count in that of the network around it."""
    host, net = AddressSet.parse("10.0.0.1"), AddressSet.parse("10.0.0.0/24")
    web = IntervalSet.single(80)
    wanted = {1: 2, 2: 1, 3: 0}
    shapes = {1: {"src": net}, 2: {"src": host}, 3: {"src": host, "dport": web}}
    for order in ((1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1)):
        stages = LimitStages()
        for number in order:
            limit(stages, number, **shapes[number])
        assert {number: found.stage for number in wanted if (found := stages.standing(number))} == wanted


def test_many_tenants_with_limits_both_ways_need_two_stages() -> None:
    """Each has another number of hosts, and each way meets every other way."""
    stages = LimitStages()
    for tenant in range(1, 30):
        hosts = AddressSet.parse(*(f"10.{tenant}.0.{2 * host}" for host in range(tenant)))
        limit(stages, 2 * tenant, src=hosts)
        limit(stages, 2 * tenant + 1, dst=hosts)
    assert {found.stage for number in range(2, 60) if (found := stages.standing(number))} == {0, 1}


def test_limits_on_the_same_packets_have_the_meter_of_the_lowest() -> None:
    stages, host = LimitStages(), AddressSet.parse("10.0.0.1")
    for number, rate in ((1, 5), (2, 3), (3, 3), (4, 9)):
        stages.change((), (NewLimit(number, rate, tuple(normalise(Flowgroup(src=host)).matches())),))
    assert [number for number in range(1, 5) if stages.standing(number)] == [2]
    assert stages.change((2,), ()) == {2, 3}
    assert [number for number in range(1, 5) if stages.standing(number)] == [3]


def test_packets_of_histories_pass_each_limit_once_and_the_narrower_first() -> None:
    """The order of passing, with the whole compiler (that they are the right ones: test_compile)."""
    several = 0
    for seed in range(80):
        history = History.start(seed)
        compiler = Compiler(history.tree)
        for _ in range(4):
            compiler.update(history.step(), history.where)
            for packet in workload.packets(history.rng, history.tree, history.where, 6):
                limits = passed(compiler.table, packet)
                several += len(limits) > 1
                orders = [narrowness(_matches(history.tree, one.request, history.where)) for one in limits]
                assert orders == sorted(orders)
    assert several > 5


def _matches(tree: PolicyTree, number: int, where: dict[str, AddressSet]) -> Matches:
    request: ActiveRequest = tree.requests[number]
    assert request.kind is Kind.RATELIMIT
    resolved = request.flowgroup.resolve(where)
    assert resolved is not None
    return tuple(sorted(resolved.matches()))


def test_the_work_of_moving_wide_products_is_told() -> None:
    """The event loop hands it to a thread (policy.runtime), though few requests are concerned."""
    stages = LimitStages()
    assert limit(stages, 1, src=AddressSet.parse("10.0.0.0/24")) == 0
    assert stages.spread == 0
    many = AddressSet.parse(*(f"10.0.0.{2 * host}" for host in range(100)))
    assert limit(stages, 2, src=many) == 0
    assert stages.spread == 100
    stages.change((2,), ())
    assert stages.spread == 0
    stages.undo()
    assert stages.spread == 100
