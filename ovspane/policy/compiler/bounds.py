"""What a compiled policy must stay within, and what is raised when it does not; for both twins of the compiler.
Pure."""

from __future__ import annotations

from ovspane.policy.compiler.expand import CannotCompile
from ovspane.policy.compiler.ranks import LAST_LABEL

#: access stages that fit before limits, queues and forwarding in Open vSwitch's 254 tables, with room to spare
STAGE_LIMIT = 40
#: the deepest node that may have requests: OpenFlow priorities have 16 bits
DEPTH_LIMIT = 32_000
#: with more deny nodes than this one index over all denies is asked, instead of one index a node: where there are many
#: nodes few of them meet, and where all meet a query ends early in each
MANY_NODES = 64
#: the node of the administrator's default deny: not in the tree, above its root
ABOVE_ROOT = ""
#: the handle of its one deny, and the request id of its rule: nobody's
VIRTUAL = 0


class TooManyStages(CannotCompile):
    """The overlapping shares need more access stages than there are tables for."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"overlapping shares would need more than {limit} access stages")


class TooManyRates(CannotCompile):
    """There are more different rates than priorities."""

    def __init__(self) -> None:
        super().__init__(f"more than {LAST_LABEL} different rates")


def too_deep(share: str) -> CannotCompile:
    """The refusal of a share below DEPTH_LIMIT."""
    return CannotCompile(f"share {share} is deeper than {DEPTH_LIMIT}")
