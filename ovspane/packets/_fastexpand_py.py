"""The plain twin of the compiled expansion of simple flowgroups: it leaves all of them to the general expansion."""

from __future__ import annotations

from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.match import Match


def single_match(group: Flowgroup) -> Match | None:
    """None: expand it in general. See _fastexpand.pyi."""
    return None
