"""The one import point of the overlap index: the compiled engine, or its plain twin where that is not built.

The environment variable OVSPANE_PURE=1 chooses the twin. Invariant: both answer alike
(tests/unit/packets/test_overlap.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovspane._fastmatch import MatchIndex, overlapped

    COMPILED: bool
elif os.environ.get("OVSPANE_PURE") == "1":
    from ovspane._fastmatch_py import MatchIndex, overlapped

    COMPILED = False
else:
    try:
        from ovspane._fastmatch import MatchIndex, overlapped

        COMPILED = True
    except ImportError:  # built without a compiler or without Cython (setup.py makes the extension optional)
        from ovspane._fastmatch_py import MatchIndex, overlapped

        COMPILED = False

__all__ = ["COMPILED", "MatchIndex", "overlapped"]
