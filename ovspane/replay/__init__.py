"""Replay of written traces: deterministic tests of the language, without a switch (ovspane(7), section 9). Pure.

See trace (the format), runner (playing it), packets.boundaries (which packets to ask about).
"""

from ovspane.replay.runner import Mismatch, Replay, play
from ovspane.replay.trace import TraceError, read_trace

__all__ = ["Mismatch", "Replay", "TraceError", "play", "read_trace"]
