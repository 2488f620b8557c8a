"""A test of the tests: break a rule of the language on purpose, and some trace must fail.

Each mutation replaces one function of the policy rooms by one with a plausible mistake in it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovspane.lang.statements import Kind
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy import compile_check, semantics
from ovspane.policy import runtime as runtime_module
from ovspane.policy.admission import control as admission
from ovspane.policy.admission import interpreter, strictness
from ovspane.policy.compiler.access import AccessStages
from ovspane.policy.compiler.compile_plain import Compiler
from ovspane.policy.model import actions
from ovspane.policy.model.actions import Access, Operators
from ovspane.policy.runtime import Runtime
from ovspane.policy.state import schedule, schedule_plain, state
from ovspane.policy.state.authority import Fallen, Grants
from ovspane.policy.state.changes import Registry
from ovspane.policy.state.shares import Privileges, Request, Share
from ovspane.policy.state.state import State
from ovspane.replay import TraceError, play, runner

TRACES = sorted(Path(__file__).parent.glob("*.trace"))
Patch = pytest.MonkeyPatch


def failing() -> Iterator[str]:
    """The traces that do not come out as expected any more."""
    for trace in TRACES:
        try:
            _, differences = play(trace.read_text(encoding="utf-8"), check_table=True)
        except TraceError:
            raise
        except Exception:  # noqa: BLE001 - a broken rule may also break an assertion further down
            yield trace.stem
        else:
            if differences:
                yield trace.stem


MUTATIONS: dict[str, Callable[[Patch], None]] = {}


def mutation(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MUTATIONS[apply.__name__] = apply
    return apply


# --- room and tokens


@mutation
def buckets_are_ignored(patch: Patch) -> None:
    def unlimited(share: str, top: int | None, least: int, *_bucket: int | None, **more: int) -> schedule.Schedule:
        return schedule.Schedule(share, top, least, None, None, **more)

    patch.setattr(state, "Schedule", unlimited)


@mutation
def buckets_start_full(patch: Patch) -> None:
    put_share = State._put_share

    def full(self: State, share: Share) -> None:
        put_share(self, share)
        if share.privileges.tb_capacity and not self.schedules[share.name].level:
            self.schedules[share.name].fold_to(share.privileges.tb_capacity * 1000, self.schedules[share.name].level_at)

    patch.setattr(State, "_put_share", full)


@mutation
def buckets_have_no_cap(patch: Patch) -> None:
    patch.setattr(Privileges, "of", staticmethod(lambda spec, of=Privileges.of: replace(of(spec), tb_capacity=10**12)))


@mutation
def a_bucket_may_run_dry_for_ever(patch: Patch) -> None:
    class Careless(schedule_plain.Ledger):
        def _dry(self, steps: list[schedule_plain.Step], start: int) -> tuple[int, int, str] | None:
            below = [at for at, level, _ in self._levels(steps) if level < 0]
            return (below[0], 0, "tokens") if below else None

    patch.setattr(state, "Schedule", Careless)


@mutation
def a_cancelled_reservation_gives_all_its_tokens_back(patch: Patch) -> None:
    patch.setattr(State, "folded", lambda self, request, at: [])


@mutation
def ancestors_are_ignored(patch: Patch) -> None:
    patch.setattr(State, "ledger", lambda self, share: schedule.Chain([self.schedules[share]]))


@mutation
def only_the_first_instant_is_looked_at(patch: Patch) -> None:
    shortfall = schedule.Chain.shortfall
    patch.setattr(
        schedule.Chain,
        "shortfall",
        lambda self, start, end, rate, floor=True: shortfall(self, start, start + 1, rate, floor),
    )


@mutation
def the_minimum_is_ignored(patch: Patch) -> None:
    shortfall = schedule.Chain.shortfall
    patch.setattr(
        schedule.Chain, "shortfall", lambda self, start, end, rate, floor=True: shortfall(self, start, end, rate, False)
    )


@mutation
def the_largest_rate_is_not_the_largest(patch: Patch) -> None:
    largest = schedule.Chain.largest
    patch.setattr(schedule.Chain, "largest", lambda self, *args: largest(self, *args) // 2)


@mutation
def the_earliest_start_is_late(patch: Patch) -> None:
    earliest = schedule.Chain.earliest

    def late(self: schedule.Chain, *args: Any, **more: Any) -> int | None:
        found = earliest(self, *args, **more)
        return None if found is None else found + 1000

    patch.setattr(schedule.Chain, "earliest", late)


# --- admission


@mutation
def strictness_is_ignored(patch: Patch) -> None:
    patch.setattr(strictness, "overriding", lambda state, request, effort=None: [])


@mutation
def strictness_ignores_times(patch: Patch) -> None:
    patch.setattr(Request, "during", lambda self, start, end: True)


@mutation
def strictness_takes_a_sibling_for_a_parent(patch: Patch) -> None:
    patch.setattr(
        State,
        "chain",
        lambda self, name, chain=State.chain: iter(
            [*chain(self, name), *self.children[self.shares[name].parent or name]]
        ),
    )


@mutation
def a_lower_limit_does_not_hold_a_reservation_back(patch: Patch) -> None:
    overrides = strictness._overrides
    patch.setattr(
        strictness,
        "_overrides",
        lambda state, other, request, effort: (
            other.kind is not Kind.RATELIMIT and overrides(state, other, request, effort)
        ),
    )


@mutation
def a_reservation_never_allows(patch: Patch) -> None:
    patch.setattr(strictness, "allows", lambda state, request: request.kind is Kind.ALLOW)


@mutation
def a_reservation_always_allows(patch: Patch) -> None:
    patch.setattr(strictness, "allows", lambda state, request: request.kind in (Kind.ALLOW, Kind.RESERVE))


@mutation
def everybody_holds_everything(patch: Patch) -> None:
    patch.setattr(Grants, "holds", lambda self, share, speaker: True)


@mutation
def requests_may_leave_their_share(patch: Patch) -> None:
    patch.setattr(Flowgroup, "covers", lambda self, other: self.intersect(other) is not None)


@mutation
def the_past_may_be_asked_for(patch: Patch) -> None:
    patch.setattr(admission, "GRACE", 10**12)


@mutation
def there_is_no_grace(patch: Patch) -> None:
    patch.setattr(admission, "GRACE", 0)


@mutation
def privileges_are_ignored(patch: Patch) -> None:
    patch.setattr(admission, "privilege", lambda share, ask: None)


@mutation
def children_may_have_more_than_parents(patch: Patch) -> None:
    patch.setattr(interpreter, "grown_beyond", lambda child, parent: None)


@mutation
def revokes_do_not_cascade(patch: Patch) -> None:
    patch.setattr(Registry, "fallen", lambda self, taken: Fallen(list(taken)))


@mutation
def anybody_may_cancel(patch: Patch) -> None:
    patch.setattr(
        interpreter,
        "_cancel",
        lambda state, speaker, number, now, cancel=interpreter._cancel: cancel(state, "root", number, now),
    )


@mutation
def check_changes_things(patch: Patch) -> None:
    patch.setattr(interpreter, "_check", interpreter.execute)


@mutation
def dropped_shares_leave_their_requests(patch: Patch) -> None:
    patch.setattr(interpreter, "ending", lambda state, request, now, gone=None: iter(()))


# --- conflicts, the table, time


@mutation
def allow_beats_deny(patch: Patch) -> None:
    rank = {Access.UNSET: 0, Access.DENY: 1, Access.ALLOW: 2}
    best = lambda one, other: max(one, other, key=rank.__getitem__)  # noqa: E731
    patch.setattr(actions, "ACCESS", Operators(Access.UNSET, best, best, actions.ACCESS.p))


@mutation
def parents_beat_children(patch: Patch) -> None:
    wrong = lambda node, children: children if node is Access.UNSET else node  # noqa: E731
    patch.setattr(actions, "ACCESS", Operators(Access.UNSET, actions.ACCESS.d, actions.ACCESS.s, wrong))


@mutation
def the_higher_limit_counts(patch: Patch) -> None:
    wrong = lambda one, other: frozenset({max(one | other, key=lambda limit: limit.rate)}) if one | other else one  # noqa: E731
    patch.setattr(actions, "LIMITS", Operators(frozenset(), wrong, wrong, wrong))


@mutation
def the_lowest_limit_takes_the_place_of_others(patch: Patch) -> None:
    wrong = lambda one, other: frozenset({min(one | other, key=lambda limit: limit.rate)}) if one | other else one  # noqa: E731
    patch.setattr(actions, "LIMITS", Operators(frozenset(), wrong, wrong, wrong))


@mutation
def a_limit_below_takes_the_place_of_those_above(patch: Patch) -> None:
    union = actions.LIMITS.d
    patch.setattr(actions, "LIMITS", Operators(frozenset(), union, union, lambda node, children: children or node))


@mutation
def limits_on_the_same_packets_are_metered_each(patch: Patch) -> None:
    patch.setattr(runner, "metered", lambda tree, verdict, where: verdict.limits)


@mutation
def anybody_may_take_all_limit_stages(patch: Patch) -> None:
    patch.setattr(compile_check, "ADMINISTRATORS_LIMITS", 0)


@mutation
def limits_of_later_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(compile_check.CompileCheck, "_check_limit", lambda self, request, stages: None)


@mutation
def the_nearest_guarantee_counts(patch: Patch) -> None:
    nearest = lambda node, children: children or node  # noqa: E731
    patch.setattr(actions, "GUARANTEE", Operators(0, max, max, nearest))


@mutation
def the_table_forgets_exceptions(patch: Patch) -> None:
    patch.setattr(runtime_module, "Compiler", Compiler)  # what can be broken here: the plain one
    patch.setattr(AccessStages, "add_allow", lambda self, handle, match, place: None)
    patch.setattr(AccessStages, "remove_allow", lambda self, handle: [])


@mutation
def the_table_keeps_what_ended(patch: Patch) -> None:
    patch.setattr(runtime_module, "Compiler", Compiler)
    patch.setattr(Compiler, "_disclaim", lambda self, rule, touched: None)


@mutation
def users_do_not_move(patch: Patch) -> None:
    patch.setattr(Runtime, "_moves", lambda self, principal, change: False)


@mutation
def requests_do_not_end(patch: Patch) -> None:
    patch.setattr(Runtime, "overdue", lambda self, now: [])


@mutation
def nobody_is_told(patch: Patch) -> None:
    patch.setattr(strictness, "overridden_by", lambda state, new: [])


@mutation
def the_evaluator_forgets_grandchildren(patch: Patch) -> None:
    evaluate = semantics.evaluate

    def shallow(tree: Any, packet: Any, locations: Any, node: str = "rootShare") -> actions.Verdict:
        return actions.NEUTRAL if tree.nodes[node].depth > 1 else evaluate(tree, packet, locations, node)

    patch.setattr(semantics, "evaluate", shallow)
    patch.setattr("ovspane.replay.runner.evaluate", shallow)


@pytest.mark.parametrize("name", MUTATIONS)
def test_some_trace_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    assert next(failing(), None) is not None, f"no trace fails although {name.replace('_', ' ')}"
