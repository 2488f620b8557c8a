"""An explanation (`explain`) that is worked out later, while the state goes on: from the part of the state that it
needs, as a state of its own. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from ovspane.lang.replies import Reply
from ovspane.lang.units import Ms
from ovspane.packets.flowgroup import Flowgroup
from ovspane.policy.admission.explain import explained, overlapping, reader_of
from ovspane.policy.state.changes import Put
from ovspane.policy.state.state import State


def explanation(state: State, speaker: str, group: Flowgroup, now: Ms) -> Reply | Callable[[], Reply]:
    """What `explain` says now; or the work that finds it out, which may be done in another thread: it has taken of the
    state what it needs, and these values do not change."""
    active = overlapping(state, group, now)
    if isinstance(active, Reply):
        return active
    above_first = (name for request in active for name in reversed(list(state.chain(request.share))))
    shares = {name: state.shares[name] for name in above_first}
    status = {request.id: state.status[request.id] for request in active if request.id in state.status}
    locations = dict(state.locations)
    reader = reader_of(state, speaker, group, active)

    def work() -> Reply:
        excerpt = State()
        excerpt.locations.update(locations)
        excerpt.status.update(status)
        for share in shares.values():
            excerpt.apply(Put(share))
        for request in active:
            excerpt.apply(Put(request))
        return explained(excerpt, reader, group, active, now)

    return work
