"""May there be one more? The quotas of a share and of those above it (policy.state.quotas). Pure."""

from __future__ import annotations

from ovspane.lang.units import Ms, length_text
from ovspane.policy.admission.refusal import Refusal
from ovspane.policy.admission.visibility import knows_share
from ovspane.policy.state.shares import ADMINISTRATOR
from ovspane.policy.state.state import State


def exceeded(state: State, speaker: str, share: str, **more: int) -> Refusal | None:
    """Why a share may not have so many more `requests`, `shares`, `flows`, `queues` or `grants`, or None. The
    administrator is never refused: what others use up is theirs."""
    if speaker == ADMINISTRATOR:
        return None
    for name in state.chain(share):
        lacking = state.census[name].lacking(**more)
        if lacking is not None:
            return Refusal("quota", f"{_where(state, speaker, share, name)} has no more: {lacking}")
    return None


def beyond_horizon(state: State, speaker: str, share: str, end: Ms | None, now: Ms) -> Refusal | None:
    """Why a request may not last until `end` (None: for ever), or None."""
    if speaker == ADMINISTRATOR:
        return None
    for name in state.chain(share):
        horizon = state.census[name].bounds.horizon
        if horizon is not None and (end is None or end > now + horizon):
            where = _where(state, speaker, share, name)
            return Refusal("quota", f"{where} looks no farther: horizon <= {length_text(horizon)}")
    return None


def _where(state: State, speaker: str, share: str, name: str) -> str:
    """A share above the one asked for may be one that the speaker does not know of."""
    return f"share {name}" if knows_share(state, speaker, name) else f"a share above {share}"
