"""The laws that the compiler relies on (policy.model.actions), for every component and for whole verdicts."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.policy.model.actions import ACCESS, GUARANTEE, LIMITS, NEUTRAL, Access, Limit, Operators, Verdict

ACCESSES = st.sampled_from(Access)
RATES = st.integers(0, 2**40)
SETS_OF_LIMITS = st.frozensets(st.builds(Limit, st.integers(1, 5), RATES), max_size=4)
VERDICTS = st.builds(Verdict, ACCESSES, RATES, SETS_OF_LIMITS)
COMPONENTS = [(ACCESS, ACCESSES), (GUARANTEE, RATES), (LIMITS, SETS_OF_LIMITS)]
NAMES = ["access", "guarantee", "limits"]


@pytest.mark.parametrize(("operators", "values"), COMPONENTS, ids=NAMES)
@given(data=st.data())
@settings(deadline=None)
def test_laws_of_a_component(operators: Operators[Any], values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    a, b, c = data.draw(values), data.draw(values), data.draw(values)
    for join in (operators.d, operators.s):
        assert join(a, b) == join(b, a)
        assert join(a, join(b, c)) == join(join(a, b), c)
        assert join(a, a) == a
    assert operators.p(a, operators.p(b, c)) == operators.p(operators.p(a, b), c)
    for join in (operators.d, operators.s, operators.p):
        assert join(operators.identity, a) == a == join(a, operators.identity)


@given(VERDICTS, VERDICTS, VERDICTS)
def test_verdicts_inherit_the_laws(a: Verdict, b: Verdict, c: Verdict) -> None:
    assert a.d(b) == b.d(a)
    assert a.s(b) == b.s(a)
    assert a.d(b.d(c)) == a.d(b).d(c)
    assert a.s(b.s(c)) == a.s(b).s(c)
    assert a.p(b.p(c)) == a.p(b).p(c)
    assert NEUTRAL.d(a) == NEUTRAL.s(a) == NEUTRAL.p(a) == a.d(NEUTRAL) == a.s(NEUTRAL) == a.p(NEUTRAL) == a


@given(st.lists(VERDICTS, min_size=1, max_size=6), st.randoms())
def test_the_order_of_requests_and_siblings_does_not_matter(verdicts: list[Verdict], rng: Any) -> None:
    shuffled = list(verdicts)
    rng.shuffle(shuffled)
    assert reduce(Verdict.d, verdicts) == reduce(Verdict.d, shuffled)
    assert reduce(Verdict.s, verdicts) == reduce(Verdict.s, shuffled)


def test_the_tables_of_the_manual() -> None:
    """ovspane(7), section 6, cell by cell for access: +D, +S as +D, +P."""
    unset, allow, deny = Access.UNSET, Access.ALLOW, Access.DENY
    strongest = {(a, b): max(a, b) for a in Access for b in Access}
    assert {(a, b): ACCESS.d(a, b) for a in Access for b in Access} == strongest
    assert {(a, b): ACCESS.s(a, b) for a in Access for b in Access} == strongest
    assert strongest[allow, deny] is deny
    assert strongest[unset, allow] is allow
    assert [ACCESS.p(deny, child) for child in (unset, allow, deny)] == [deny, allow, deny]
    assert [ACCESS.p(allow, child) for child in (unset, allow, deny)] == [allow, allow, deny]
    assert [ACCESS.p(unset, child) for child in (unset, allow, deny)] == [unset, allow, deny]
    assert (GUARANTEE.p(3, 5), GUARANTEE.p(5, 3)) == (5, 5)
    mine, theirs = frozenset({Limit(1, 3)}), frozenset({Limit(2, 5)})
    assert LIMITS.d(mine, theirs) == LIMITS.s(mine, theirs) == LIMITS.p(mine, theirs) == mine | theirs
    assert (Verdict(limits=mine | theirs).limit, Verdict().limit) == (3, None)
