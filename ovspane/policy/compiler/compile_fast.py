"""The compiler on its compiled core: what `_fastcompile` does, with the interface that compile explains. Pure.

A call is for one thread at a time: while one is in a call, which may take long and lets others run, a call of another
raises RuntimeError. Reading `table` is a call, too.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView

from ovspane.lang.statements import Kind
from ovspane.packets.fields import Locations
from ovspane.packets.match import Match
from ovspane.policy.compiler import bounds
from ovspane.policy.compiler._fastcompile import Core
from ovspane.policy.compiler.colouring import recoloured
from ovspane.policy.compiler.expand import located_matches
from ovspane.policy.compiler.limit_stages import LimitStages, NewLimit
from ovspane.policy.compiler.ranks import LAST_LABEL, Ranks
from ovspane.policy.model.table import Effect, Key, Rule, Rules, Stage, TableDelta
from ovspane.policy.model.tree import PolicyTree, TreeDelta


class Hooks:
    """What the core needs of the rooms above it."""

    rule, match, ranks, limits, new_limit = Rule, Match, Ranks, LimitStages, NewLimit
    kinds = (Kind.DENY, Kind.RESERVE, Kind.RATELIMIT)
    stages, effects = tuple(Stage), tuple(Effect)
    last_label, depth_limit, above_root = LAST_LABEL, bounds.DEPTH_LIMIT, bounds.ABOVE_ROOT
    locate = staticmethod(located_matches)
    recoloured = staticmethod(recoloured)
    too_deep = staticmethod(bounds.too_deep)
    too_many_stages = bounds.TooManyStages
    limit_stages, too_many_limits = bounds.LIMIT_STAGES, bounds.TooManyLimits
    too_many_rates = bounds.TooManyRates

    def __init__(self, many_nodes: int) -> None:
        self.many_nodes = many_nodes


class Compiler:
    """Compiles one policy tree. `default_deny`: what no request allows is dropped (the administrator's choice)."""

    def __init__(self, tree: PolicyTree, default_deny: bool = False, stage_limit: int = bounds.STAGE_LIMIT) -> None:
        """Starts empty: what the tree has already has to be given to `update`."""
        self._tree = tree
        self._default_deny = default_deny
        self._stage_limit = stage_limit
        self._core = self._new_core()

    def _new_core(self) -> Core:
        return Core(self._tree, Hooks(bounds.MANY_NODES), self._default_deny, self._stage_limit)

    @property
    def table(self) -> Rules:
        """The table of now; it changes with the compiler. Rules are made when they are asked for."""
        return _CoreTable(self._core)

    @property
    def stages(self) -> int:
        """Number of access stages in use (their indices are 0 .. stages-1)."""
        return self._core.stages

    @property
    def deny_stages(self) -> dict[str, int]:
        """The access stage of each node that has denies now."""
        return self._core.deny_stages

    @property
    def limit_spread(self) -> int:
        """How many flows may move, beside a few, when a limit comes or goes (`LimitStages.spread`)."""
        return self._core.limit_spread

    @property
    def limit_depth(self) -> int:
        """How many limit stages are in use."""
        return self._core.limit_depth

    def check(
        self,
        delta: TreeDelta,
        locations: Locations,
        stages: int = bounds.STAGE_LIMIT,
        limit_stages: int = bounds.LIMIT_STAGES,
    ) -> None:
        """Raise what `update` would raise, and change nothing; also where limits would need more than `limit_stages`.
        The tree need not have the delta, but must have its nodes. `stages`: a delta that makes nodes change their
        access stage may use so many.

        To know it for requests that start later, keep a second compiler over everything that has been accepted, without
        regard to time: what fits there fits at every instant.
        """
        self._core.check(delta, locations, stages, limit_stages)

    def update(self, delta: TreeDelta, locations: Locations) -> TableDelta:
        """Take in a delta of the tree; returns what changes in the table. A user that moved: its requests in both
        halves.

        Raises TooManyMatches, TooManyStages, TooManyLimits or TooManyRates (CannotCompile), or ValueError or KeyError
        for a request that is there already or not there; then nothing has changed.
        """
        return TableDelta(*self._core.update(delta, locations))

    def replace(self, delta: TreeDelta, locations: Locations) -> tuple[TableDelta, tuple[Rule, ...]]:
        """As `update`; also the rules whose content changed, as they were."""
        added, removed, replaced = self._core.replace(delta, locations)
        return TableDelta(added, removed), replaced


class _CoreTable(Rules):
    """The rules of a core, made when they are read."""

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def rules(self) -> Mapping[Key, Rule]:
        return _CoreRules(self._core)


class _CoreRules(Mapping[Key, Rule]):
    __slots__ = ("core",)

    def __init__(self, core: Core) -> None:
        self.core = core

    def __getitem__(self, key: Key) -> Rule:
        rule: Rule | None = self.core.rule_at(key)
        if rule is None:
            raise KeyError(key)
        return rule

    def __len__(self) -> int:
        return len(self.core)

    def __iter__(self) -> Iterator[Key]:
        return (rule.key for rule in self.core.rules())

    def values(self) -> ValuesView[Rule]:
        return _Values(self)

    def items(self) -> ItemsView[Key, Rule]:
        return _Items(self)


class _Values(ValuesView[Rule]):
    _mapping: _CoreRules

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._mapping.core.rules())


class _Items(ItemsView[Key, Rule]):
    _mapping: _CoreRules

    def __iter__(self) -> Iterator[tuple[Key, Rule]]:
        return ((rule.key, rule) for rule in self._mapping.core.rules())
