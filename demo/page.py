"""What the demo prints: acts, statements with their replies, evidence, and whether it held.

Invariant: each piece of evidence prints one line, `[ok]` or `[FAILED]`, and the failures are remembered: silence is
never a success.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterable

#: characters: of sentences, and of a tool's line before it is cut
WIDTH, LONGEST = 118, 150
BOLD, DIM, GREEN, RED, BLUE = "1", "2", "32", "31;1", "36"


class Page:
    """One run of the demo, as it is printed."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._began = time.monotonic()
        self._acts = 0
        self.held = 0
        self.failed: list[str] = []

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._began

    def act(self, title: str) -> None:
        """A new act."""
        self._acts += 1
        self._print("")
        self._print(self._paint(BOLD, f"{self._acts}. {title}"))

    def statement(self, who: str, text: str) -> None:
        """Who says what; the reply follows as evidence."""
        self._print(self._paint(BLUE, f"  {who}> {text}"))

    def show(self, lines: Iterable[str]) -> None:
        """Evidence as the tool printed it; very long lines are cut."""
        for line in lines:
            self._print(self._paint(DIM, "     | " + (line if len(line) <= LONGEST else line[:LONGEST] + " …")))

    def note(self, text: str) -> None:
        """A sentence to the visitor."""
        for line in textwrap.wrap(text, WIDTH):
            self._print(f"  {line}")

    def check(self, holds: bool, text: str) -> bool:
        """One piece of evidence."""
        if holds:
            self.held += 1
        else:
            self.failed.append(text)
        self._print(f"  {self._paint(GREEN, '[ok]') if holds else self._paint(RED, '[FAILED]')} {text}")
        return holds

    def skip(self, text: str) -> None:
        """Evidence that this datapath cannot give; said, never counted."""
        self._print(f"  [--] {text}")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _print(self, text: str) -> None:
        print(text, flush=True)
