"""What a benchmark yields, how it is printed and how it is kept. No measuring here.

Invariant of build/bench.json: name -> {"value", "unit", "n", "baseline", "ratio"}, with ratio = value / baseline. So
below 1 is better than the baseline for a time, and above 1 for a rate. A case that did not end within its budget has
the value null and says so in "note": nothing is left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """One finite figure. `n`: how many requests, flows or reservations were there. `baseline`: the same got another
    way."""

    name: str
    value: float | None
    unit: str
    n: int
    baseline: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value in units of the baseline; None: there is none."""
        return self.value / self.baseline if self.value is not None and self.baseline else None

    def entry(self) -> dict[str, object]:
        """As build/bench.json has it."""
        entry: dict[str, object] = {name: value for name, value in asdict(self).items() if name not in ("name", "note")}
        return entry | {"ratio": self.ratio} | ({"note": self.note} if self.note else {})


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed. Raises ValueError if there are none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as docs/measurements.md has them, its columns aligned."""
    cells = [list(headings), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def figure(value: float | None) -> str:
    """Three digits that matter, no more."""
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def results_table(results: Iterable[Result]) -> str:
    """The results of one group: a row for each name but its last part, which names the column. `3.1 (0.2x)`: the
    value and its ratio to the baseline. What did not end is said below the table."""
    rows: dict[str, dict[str, str]] = {}
    notes: dict[str, list[str]] = {}
    for result in results:
        name, _, column = result.name.rpartition(".")
        text = figure(result.value) + (f" ({figure(result.ratio)}x)" if result.ratio is not None else "")
        rows.setdefault(name, {})[column] = text
        if result.note:
            notes.setdefault(f"{name}: {result.note}", []).append(column)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    shown = table(("", *columns), ([name, *(row.get(column, "") for column in columns)] for name, row in rows.items()))
    return "\n".join([shown, *(f"{note} ({', '.join(missing)})" for note, missing in notes.items())])


def write(path: Path, results: Iterable[Result]) -> None:
    """Put the results into the file; other groups' earlier results there stay."""
    kept: dict[str, object] = {}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
    groups = set()
    fresh = {}
    for result in results:
        groups.add(result.name.split(".")[0])
        fresh[result.name] = result.entry()
    kept = {name: entry for name, entry in kept.items() if name.split(".")[0] not in groups}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept | fresh, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
