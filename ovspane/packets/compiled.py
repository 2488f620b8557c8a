"""Where a compiled module or its plain twin is chosen: the compiled one, unless it was not built or is not wanted.

The environment variable OVSPANE_PURE=1, as it is when the module is imported, chooses the plain twins. Invariant: both
answer alike. To keep the types, a user imports the compiled names under TYPE_CHECKING and takes them from `engine` in
its `else`.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

PURE = os.environ.get("OVSPANE_PURE") == "1"


def engine(compiled: str, plain: str) -> ModuleType:
    """The module with the first dotted name, or the one with the second. Raises ImportError if that fails, too."""
    if not PURE:
        try:
            return import_module(compiled)
        except ImportError:  # built without a compiler or without Cython (setup.py makes the extensions optional)
            pass
    return import_module(plain)
