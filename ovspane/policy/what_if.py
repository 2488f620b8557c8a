"""What would come of a statement (`WhatIf`): the rules of the network flow table that would come and go, and whom it
would override. Pure.

The compiler that serves the switches is asked, since what changes depends on what stands where: it takes the delta in
and then out again. Where that leaves a rule elsewhere than it was (a stage of its own choice, the same verdicts), the
caller gets the difference, which has to be handed to the switches as any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ovspane.lang.replies import Code, Item, Reply, listing, no
from ovspane.lang.units import BitsPerSecond, Ms, rate_text, time_text
from ovspane.packets.fields import Locations
from ovspane.packets.match import Match
from ovspane.placement.ofctl_text import match_fields
from ovspane.policy.admission import strictness
from ovspane.policy.admission.judgement import Judgement
from ovspane.policy.admission.visibility import seen_numbers, sees_request
from ovspane.policy.compile_check import as_active
from ovspane.policy.compiler.compile import Compiler
from ovspane.policy.compiler.expand import CannotCompile
from ovspane.policy.model.table import Effect, Key, Rule, Stage, TableDelta
from ovspane.policy.model.tree import ActiveRequest, PolicyTree, TreeDelta
from ovspane.policy.state.shares import ADMINISTRATOR, Principal, Request
from ovspane.policy.state.state import Change, Drop, Put, State

#: rules that one answer lists
LISTED = 1_000
#: how a request that has no number yet is named
NEW = "new"


@dataclass(frozen=True, slots=True)
class Forecast:
    """`change` would take place in the network flow table; `left` is what asking changed there. `overridden`: the
    numbers of the requests that would be overridden."""

    change: TableDelta
    left: TableDelta
    overridden: tuple[int, ...] = ()


def foresee(state: State, tree: PolicyTree, compiler: Compiler, changes: Iterable[Change]) -> Forecast:
    """What these changes would do, beside all that is in effect now; a request that starts later as if it started now.
    Raises CannotCompile; then nothing has changed."""
    removed: dict[int, ActiveRequest] = {}
    added: dict[int, ActiveRequest] = {}
    overridden: set[int] = set()
    locations: Locations = state.locations
    for change in changes:
        value = change.value
        if isinstance(value, Request) and isinstance(change, Put) and value.id not in state.requests:
            added[value.id] = as_active(state, value)
            overridden.update(other.id for other in strictness.overridden_by(state, value))
        elif isinstance(value, Request) and isinstance(change, Drop) and value.id in tree.requests:
            removed[value.id] = tree.requests[value.id]
        elif isinstance(value, Principal):
            at = {value.name: value.addresses} if isinstance(change, Put) and value.addresses else {}
            locations = {name: there for name, there in locations.items() if name != value.name} | at
            for number in state.index.of_user(value.name):
                if (active := tree.requests.get(number)) is not None:
                    removed[number] = added[number] = active
    delta = TreeDelta(tuple(removed.values()), tuple(added.values()))
    back = TreeDelta(delta.added, delta.removed)
    tree.apply(delta)
    try:
        there, replaced = compiler.replace(delta, locations)
    finally:
        tree.apply(back)
    again, replaced_again = compiler.replace(back, state.locations)
    before = _before(again, replaced_again) | _before(there, replaced)  # of a key of both: what the first way found
    rules = compiler.table.rules
    now = {key: rules.get(key) for key in before}
    left = TableDelta(
        tuple(rule for key, rule in now.items() if rule is not None and rule != before[key]),
        tuple(rule for key, rule in before.items() if rule is not None and now[key] is None),
    )
    return Forecast(there, left, tuple(sorted(overridden)))


def _before(change: TableDelta, replaced: Iterable[Rule]) -> dict[Key, Rule | None]:
    """What the keys that a change touched had before it."""
    new: dict[Key, Rule | None] = dict.fromkeys(rule.key for rule in change.added)
    return new | {rule.key: rule for rule in (*change.removed, *replaced)}


def asked(
    state: State, tree: PolicyTree, compiler: Compiler, speaker: str, outcome: Judgement, now: Ms
) -> tuple[Judgement, TableDelta]:
    """The answer to `WhatIf` of a statement that was judged so, and what asking changed in the table."""
    if outcome.reply.code is not Code.OK or not outcome.changes:
        return replace(outcome, dry=True), TableDelta()
    try:
        forecast = foresee(state, tree, compiler, outcome.changes)
    except CannotCompile as problem:
        return Judgement(no("cannot-compile", str(problem))), TableDelta()
    return Judgement(_told(state, speaker, outcome.reply, forecast, outcome.changes, now), dry=True), forecast.left


def _told(state: State, speaker: str, reply: Reply, forecast: Forecast, changes: Iterable[Change], now: Ms) -> Reply:
    """The answer for `speaker`: that of the statement itself, and of the rules those that it may know of. Where a rule
    stands among those of others (stage and priority) is for `root` to know."""
    new = {change.value.id: change.value for change in changes if isinstance(change.value, Request)}
    come = [rule for rule in forecast.change.added if _seen(state, speaker, rule, new)]
    go = [rule for rule in forecast.change.removed if _seen(state, speaker, rule, new)]
    fields = {key: value for key, value in reply.fields.items() if key != "id"}
    exactly = speaker == ADMINISTRATOR
    if not exactly:
        moved = {_content(rule) for rule in come} & {_content(rule) for rule in go}
        come, go = ([rule for rule in rules if _content(rule) not in moved] for rules in (come, go))
    fields |= {"rules-added": len(come), "rules-removed": len(go)}
    if forecast.overridden:
        fields["overrides"] = ",".join(seen_numbers(state, speaker, forecast.overridden))
    later = [value.start for value in new.values() if value.id not in state.requests and value.start > now]
    if later:
        fields["from"] = time_text(min(later))
    known = [("+", rule) for rule in come] + [("-", rule) for rule in go]
    items = [
        item(sign, rule, rule.request if rule.request in state.requests else NEW, exactly=exactly)
        for sign, rule in known[:LISTED]
    ]
    if len(known) > LISTED:
        fields["listed"] = LISTED
    return listing([line(one) for one in items], items, **fields)


def _seen(state: State, speaker: str, rule: Rule, new: dict[int, Request]) -> bool:
    request = state.requests.get(rule.request) or new.get(rule.request)
    return request is None or sees_request(state, speaker, request)


def _content(rule: Rule) -> tuple[Stage, Match, Effect, int, BitsPerSecond]:
    return rule.stage, rule.match, rule.effect, rule.request, rule.rate


def item(sign: str, rule: Rule, request: int | str, *, exactly: bool) -> Item:
    """One rule as programs get it. `exactly`: with where it stands."""
    match = ",".join(f"{name}={text}" if text else name for name, text in match_fields(rule.match).items())
    return {
        "change": "added" if sign == "+" else "removed",
        "stage": rule.stage.name.lower(),
        **({"index": rule.index, "priority": rule.priority} if exactly else {}),
        "match": match or "any",
        "action": _action(rule.effect, rule.slot, rule.rate),
        "request": request,
    }


def _action(effect: Effect, number: int, rate: BitsPerSecond) -> str:
    match effect:
        case Effect.DROP:
            return "drop"
        case Effect.CONTINUE:
            return "pass"
        case Effect.LIMIT:
            return f"limit to {rate_text(rate)}"
        case Effect.QUEUE:
            return f"guarantee {rate_text(rate)}"


def line(told: Item) -> str:
    """The same for people."""
    sign = "+" if told["change"] == "added" else "-"
    where = f" {told['index']} priority {told['priority']}" if "index" in told else ""
    return f"{sign} {told['stage']}{where}: {told['match']} -> {told['action']}, request {told['request']}"
