"""Why something was refused. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """`code` is a stable word for programs, `reason` a sentence for people."""

    code: str
    reason: str
