"""The interface of the compiled core of the compiler; policy.compiler.compile_fast is its only user, and says what
the values are: `policy` is a PolicyTree, `hooks` its Hooks, and rules are of the type that these give."""

from collections.abc import Mapping
from typing import Any

class Core:
    """One network flow table, with what it is compiled from.

    Every method raises RuntimeError while another thread is in one, and MemoryError ever after one that failed for want
    of memory when it could no longer be undone.
    """

    def __init__(self, policy: Any, hooks: Any, default_deny: bool, stage_limit: int) -> None: ...
    def update(self, delta: Any, locations: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Take in a delta; the rules that were added or got another content, and those that went.

        Raises what `policy.compiler.compile.Compiler.update` says, and OverflowError for a rate or slot beyond 64 bits;
        then nothing has changed.
        """
    def replace(
        self, delta: Any, locations: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
        """As `update`; also the rules that got another content, as they were."""
    def check(self, delta: Any, locations: Mapping[str, Any], stages: int, limit_stages: int) -> None:
        """Raise what `update` would, or what says that access or limits need more than so many stages; change
        nothing."""
    def rules(self) -> list[Any]:
        """All rules, in no particular order."""
    def rule_at(self, key: object) -> Any:
        """The rule with this key."""
    def __len__(self) -> int:
        """How many rules there are."""
    @property
    def stages(self) -> int: ...
    @property
    def limit_spread(self) -> int: ...
    @property
    def limit_depth(self) -> int: ...
    @property
    def deny_stages(self) -> dict[str, int]: ...
