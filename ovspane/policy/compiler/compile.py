"""The compiler: deltas of the policy tree in, deltas of the network flow table out (PANE, section 4;
docs/design/compiler.md). Pure.

`Compiler(tree, default_deny, stage_limit)` starts empty. `update(delta, locations)` takes in a delta and returns what
changes in the table; `check` raises what `update` would raise and changes nothing. `table` is all that has been
returned so far, summed up; `stages` and `deny_stages` say how many access stages are in use, and which denies stand
where.

The three components of a verdict are compiled apart, so that flow counts add instead of multiply: access into the
stages of `access`, limits into those of `limit_stages`, guarantees into one where the highest rate has the highest
priority. A request contributes the rules of each of its matches; where several contribute the same (priority,
match), OpenFlow can hold one: the lowest request id owns it, and when that goes the next is put in.

Invariants, after each call: `table` is the sum of the deltas returned so far and equals what the requests contribute;
it drops exactly the packets that semantics.evaluate denies, and a packet passes exactly the limits that
semantics.metered says; a call either succeeds or raises and changes nothing; both
twins have the same table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovspane.packets.compiled import engine
from ovspane.policy.compiler.bounds import (
    ABOVE_ROOT,
    DEPTH_LIMIT,
    LIMIT_STAGES,
    STAGE_LIMIT,
    VIRTUAL,
    TooManyLimits,
    TooManyRates,
    TooManyStages,
)
from ovspane.policy.compiler.expand import CannotCompile

if TYPE_CHECKING:
    from ovspane.policy.compiler.compile_fast import Compiler
else:
    Compiler = engine("ovspane.policy.compiler.compile_fast", "ovspane.policy.compiler.compile_plain").Compiler

__all__ = [
    "ABOVE_ROOT",
    "DEPTH_LIMIT",
    "LIMIT_STAGES",
    "STAGE_LIMIT",
    "VIRTUAL",
    "CannotCompile",
    "Compiler",
    "TooManyLimits",
    "TooManyRates",
    "TooManyStages",
]
