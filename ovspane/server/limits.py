"""What one connection may make the daemon hold, whatever the peer does."""

from __future__ import annotations

from dataclasses import dataclass

#: bytes of text that weigh as much as a statement
HEAVY_TEXT = 2048


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds for one connection. Sizes in bytes, times in seconds."""

    outstanding: int = 64  # statements, see also HEAVY_TEXT and session.HEAVY
    high_water: int = 64 * 1024  # of answers that the peer has not read: above it we wait
    notices: int = 256 * 1024  # of notices that wait: above it they are dropped (and counted)
    patience: float = 60.0  # with a peer that does not read a long answer, or its last ones


DEFAULT_LIMITS = ConnectionLimits()
