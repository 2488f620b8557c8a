"""The one import point of the bulk flow codec: the compiled one, or its plain Python version where that is not built.

The environment variable OVSPANE_PURE=1 chooses the latter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovspane.openflow._fastflow import bundle_adds, identities, recognise
elif os.environ.get("OVSPANE_PURE") == "1":
    from ovspane.openflow._fastflow_py import bundle_adds, identities, recognise
else:
    try:
        from ovspane.openflow._fastflow import bundle_adds, identities, recognise
    except ImportError:  # built without a compiler or without Cython
        from ovspane.openflow._fastflow_py import bundle_adds, identities, recognise

__all__ = ["bundle_adds", "identities", "recognise"]
