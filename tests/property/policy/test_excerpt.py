"""An explanation from an excerpt of the state is the one from the whole state."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ovspane.lang.parser import parse_flowgroup
from ovspane.lang.replies import Reply
from ovspane.policy.admission.excerpt import explanation
from ovspane.policy.admission.explain import explain
from ovspane.policy.state.changes import Put
from ovspane.policy.state.shares import Request
from tests.property.policy.test_strictness import END, GROUPS, _state, situations


@settings(max_examples=300, deadline=None)
@given(situations(), st.sampled_from(GROUPS), st.sampled_from(["root", "Alice"]), st.integers(0, END))
def test_an_excerpt_explains_as_the_whole(
    situation: tuple[list[Request], Request], group: str, speaker: str, now: int
) -> None:
    state = _state()
    for request in situation[0]:
        state.apply(Put(request))
    flowgroup = parse_flowgroup(group)
    later = explanation(state, speaker, flowgroup, now)
    whole = explain(state, speaker, flowgroup, now)
    state.apply(Put(situation[1]))  # what comes afterwards is not in it
    found = later if isinstance(later, Reply) else later()
    assert (found.to_json(), found.to_text()) == (whole.to_json(), whole.to_text())
