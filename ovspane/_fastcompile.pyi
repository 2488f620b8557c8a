"""The interface of the compiled core of the compiler; policy.compile_fast is its only user."""

from collections.abc import Mapping
from typing import Any

from ovspane.policy.compile_fast import Hooks
from ovspane.policy.table import Rule
from ovspane.policy.tree import Delta, PolicyTree

class Core:
    """One network flow table, with what it is compiled from.

    Every method raises RuntimeError while another thread is in one, and MemoryError ever after one that failed for want of
    memory when it could no longer be undone.
    """

    def __init__(self, policy: PolicyTree, hooks: Hooks, default_deny: bool, stage_limit: int) -> None: ...
    def update(self, delta: Delta, locations: Mapping[str, Any]) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
        """Take in a delta; the rules that were added or got another content, and those that went.

        Raises what `policy.compile.Compiler.update` says, and OverflowError for a rate or slot beyond 64 bits; then nothing has
        changed.
        """
    def check(self, delta: Delta, locations: Mapping[str, Any]) -> None:
        """Raise what `update` would, and change nothing."""
    def rules(self) -> list[Rule]:
        """All rules, in no particular order."""
    def rule_at(self, key: object) -> Rule | None:
        """The rule with this key."""
    def __len__(self) -> int:
        """How many rules there are."""
    @property
    def stages(self) -> int: ...
    @property
    def deny_stages(self) -> dict[str, int]: ...
