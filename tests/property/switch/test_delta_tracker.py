"""The tracker of differences beside two plain dictionaries: whatever happens in whatever order, work that is taken and
done ends with what is wanted, and only what may differ is taken."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ovspane.switch.delta_tracker import DeltaTracker

keys = st.integers(0, 5)
values = st.integers(1, 3)
some = st.dictionaries(keys, values)


class Histories(RuleBasedStateMachine):
    """`wanted` and `there` are the plain dictionaries; the switch refuses what is in `impossible`."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[int, int] = {}
        self.there: dict[int, int] = {}
        self.impossible: set[tuple[int, int]] = set()
        self.tracker: DeltaTracker[int, int] = DeltaTracker(self.wanted)
        self.in_flight: dict[int, int | None] | None = None
        self.whole = False

    @initialize(wanted=some, there=some, impossible=st.sets(st.tuples(keys, values), max_size=4))
    def begin(self, wanted: dict[int, int], there: dict[int, int], impossible: set[tuple[int, int]]) -> None:
        self.there, self.impossible = there, impossible
        self.wanted.update(wanted)
        assert self.tracker.actual is None and self.tracker.suspects is None

    @rule(key=keys, value=st.none() | values)
    def want(self, key: int, value: int | None) -> None:
        if value is None:
            self.wanted.pop(key, None)
        else:
            self.wanted[key] = value
        self.tracker.touch([key])

    @rule(wanted=some)
    def want_others(self, wanted: dict[int, int]) -> None:
        self.tracker.touch(key for key in wanted.keys() | self.wanted.keys() if wanted.get(key) != self.wanted.get(key))
        self.wanted = self.tracker.wanted = dict(wanted)

    @rule()
    def forget(self) -> None:
        """Also with work in flight: nobody knows what of it was done."""
        for key, value in list((self.in_flight or {}).items())[:2]:
            self.do(key, value)
        self.in_flight = None
        self.tracker.forget()

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def take(self) -> None:
        suspects = self.tracker.suspects
        self.in_flight, self.whole = self.tracker.take(), suspects is None
        expected = self.wanted if suspects is None else {key: self.wanted.get(key) for key in suspects}
        assert self.in_flight == expected
        assert not self.tracker.suspects

    @precondition(lambda self: self.in_flight is not None)
    @rule(undone=st.sets(keys))
    def finish(self, undone: set[int]) -> None:
        """What was taken is done, but for some, which are given back."""
        work, self.in_flight = self.in_flight or {}, None
        if self.tracker.actual is None:
            self.tracker.read_back(dict(self.there), in_flight=True)
        if self.whole:
            work |= {key: None for key in self.there.keys() - work.keys()}
        self.tracker.touch(undone & work.keys())
        for key, value in work.items():
            if key in undone or (value is not None and self.tracker.is_refused(key, value)):
                continue
            if value is not None and (key, value) in self.impossible:
                self.tracker.refuse(key, value, "impossible")
                continue
            self.do(key, value)
            self.tracker.note(key, value)

    @precondition(lambda self: self.in_flight is not None and self.tracker.actual is None)
    @rule()
    def lose(self) -> None:
        """Work that could not even begin need not be given back: nobody knows what is there, so all is taken again."""
        self.in_flight = None
        assert self.tracker.suspects is None

    @precondition(lambda self: self.in_flight is None)
    @rule(again=st.booleans())
    def read_back(self, again: bool) -> None:
        self.tracker.read_back(dict(self.there))
        if again:
            self.tracker.refused.clear()

    @precondition(lambda self: self.tracker.actual is not None)
    @rule(key=keys, value=st.none() | values)
    def somebody_else_changes(self, key: int, value: int | None) -> None:
        self.do(key, value)
        self.tracker.note(key, value)
        self.tracker.touch([key])

    def do(self, key: int, value: int | None) -> None:
        if value is None:
            self.there.pop(key, None)
        else:
            self.there[key] = value

    @precondition(lambda self: self.tracker.actual is not None)
    @rule()
    def look(self) -> None:
        """Nothing is overlooked but what is in flight or refused as it is wanted; nothing is named that is right."""
        found = set(self.tracker.differing())
        differ = {key for key in self.wanted.keys() | self.there if self.wanted.get(key) != self.there.get(key)}
        refused = {key for key, (value, _) in self.tracker.refused.items() if self.wanted.get(key) == value}
        in_flight = differ if self.in_flight is not None and self.whole else set(self.in_flight or ())
        assert found <= differ
        assert differ - refused - in_flight <= found
        assert all(self.tracker.differs(key) for key in differ)

    @rule()
    def touch_all(self) -> None:
        self.tracker.touch_all()

    @precondition(lambda self: self.tracker.actual is not None)
    @rule()
    def look_at_one(self) -> None:
        """An iteration that ends early overlooks nothing later."""
        for key in self.tracker.differing():
            assert self.wanted.get(key) != self.there.get(key)
            break

    @invariant()
    def what_is_known_is_there(self) -> None:
        assert self.tracker.actual is None or self.tracker.actual == self.there

    def teardown(self) -> None:
        """Work that is taken and done once more leaves nothing but what was refused."""
        if self.in_flight is not None:
            self.finish(set())
        self.take()
        self.finish(set())
        left = {key for key in self.wanted.keys() | self.there if self.wanted.get(key) != self.there.get(key)}
        assert left <= {key for key in self.wanted if (key, self.wanted[key]) in self.impossible}


TestHistories = Histories.TestCase


def test_while_nobody_knows_what_is_there_nothing_is_noted() -> None:
    tracker: DeltaTracker[int, int] = DeltaTracker({1: 5})
    tracker.note(1, 5)
    assert list(tracker.differing()) == [1] and tracker.actual is None
    tracker.read_back({})
    tracker.note(1, 5)
    assert not list(tracker.differing())


def test_what_needs_no_work_is_for_the_caller_to_say() -> None:
    tracker = DeltaTracker({1: 1001, 2: 2001}, same=lambda wanted, actual: wanted // 1000 == actual)
    tracker.read_back({1: 1, 2: 1})
    assert set(tracker.differing()) == {2}


def test_a_change_costs_what_changes() -> None:
    """Comparisons are counted, not seconds."""
    compared = 0

    def same(wanted: tuple[int], actual: tuple[int]) -> bool:
        nonlocal compared
        compared += 1
        return wanted == actual

    wanted = {key: (key,) for key in range(10_000)}
    tracker = DeltaTracker(wanted, same)
    tracker.read_back({key: (key,) for key in range(10_000)})
    assert not list(tracker.differing()) and compared == 10_000
    wanted[7] = (0,)
    tracker.touch([7, 8])
    assert set(tracker.differing()) == {7} and compared == 10_002
    assert tracker.take() == {7: (0,)}
    tracker.note(7, (0,))
    assert not list(tracker.differing()) and compared == 10_002  # what was noted is what is wanted, the very object
