"""The one import point of the overlap index: the compiled engine, or its plain twin (ovspane.packets.compiled).

Invariant: both answer alike (tests/unit/packets/test_overlap.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovspane.packets.compiled import engine

if TYPE_CHECKING:
    from ovspane._fastmatch import MatchIndex, overlapped
else:
    _engine = engine("ovspane._fastmatch", "ovspane._fastmatch_py")
    MatchIndex, overlapped = _engine.MatchIndex, _engine.overlapped

__all__ = ["MatchIndex", "overlapped"]
