"""The one import point of the bulk flow codec: the compiled one, or its plain twin (ovspane.packets.compiled)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovspane.packets.compiled import engine

if TYPE_CHECKING:
    from ovspane.openflow._fastflow import bundle_adds, identities, recognise
else:
    _engine = engine("ovspane.openflow._fastflow", "ovspane.openflow._fastflow_py")
    bundle_adds, identities, recognise = _engine.bundle_adds, _engine.identities, _engine.recognise

__all__ = ["bundle_adds", "identities", "recognise"]
