"""What a compiled policy must stay within, and what is raised when it does not; for both twins of the compiler.
Pure."""

from __future__ import annotations

from ovspane.policy.compiler.expand import CannotCompile
from ovspane.policy.compiler.ranks import LAST_LABEL

#: access stages that fit before limits, queues and forwarding in Open vSwitch's 254 tables, with room to spare
STAGE_LIMIT = 40
#: limit stages, and so the most limits that a packet passes. One that is in use costs each new flow of the datapath a
#: look-up, one that is not a table of the 254. A packet that matters to an administrator, a tenant, its project and an
#: application, who each say something of its host, its service, both, and its network, passes sixteen; twice that, as
#: limits that cross may take more stages than a packet passes limits (a thousand at random in nested shares: 16)
LIMIT_STAGES = 32
#: of these the last ones are for the administrator alone, so that nobody can take them all
ADMINISTRATORS_LIMITS = 8
#: so many for the limits of one share right below the root with all below it: a tenant, its project and an application
OWN_LIMITS = 12
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


class TooManyLimits(CannotCompile):
    """Too many limits lie over each other."""

    def __init__(self, stages: int) -> None:
        super().__init__(f"limits that share packets would stand over each other more than {stages} deep")


class TooManyOwnLimits(CannotCompile):
    """Too many limits of one tenant lie over each other."""

    def __init__(self, stages: int) -> None:
        super().__init__(
            f"limits of one share right below the root, and below it, that share packets would stand over each other"
            f" more than {stages} deep"
        )


class TooManyRates(CannotCompile):
    """There are more different rates than priorities."""

    def __init__(self) -> None:
        super().__init__(f"more than {LAST_LABEL} different rates")


def too_deep(share: str) -> CannotCompile:
    """The refusal of a share below DEPTH_LIMIT."""
    return CannotCompile(f"share {share} is deeper than {DEPTH_LIMIT}")
