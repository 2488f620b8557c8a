"""The clients: they make and cancel requests all the time, and remember each answer in the ledger."""

from __future__ import annotations

import random
import re
import threading
import time
from pathlib import Path

from tests.chaos.clock import Span
from tests.chaos.ledger import Ledger, Wish
from tests.support.daemon_process import Talk
from tests.support.patience import PATIENCE

#: requests that are there at a time, of all clients
KEPT = 40
PORTS = ("22", "53", "80", "80-88", "443", "1000-1023", "{80, 443, 8080}", "0-1023")
WHO = ("user=Alice", "user=Bob", "srcHost=10.0.0.3", "dstHost=10.0.0.1", "dstHost=10.0.0.0/30")
#: an answer that says no: what was not stored is as if it had never been said
_NO = re.compile(r"(NO not stored|NO)\b")


def wish(dice: random.Random) -> Wish:
    """Something to ask for; most overlaps with most."""
    share = dice.choice(("site", "site", "alice", "bob"))
    who = {"alice": "user=Alice", "bob": "user=Bob"}.get(share) or dice.choice(WHO)
    transport = dice.choice(("TCP", "UDP"))
    group = f"({who}, dstPort={dice.choice(PORTS)}, transport={transport})"
    start = dice.choice((0, 0, 0, 0, 0, 1, 2, 20))
    end = start + dice.choice((1, 2, 5, 30, 7200, 7200, 7200, 7200))
    match dice.randrange(5):
        case 0:
            return Wish("ratelimit", group, share, dice.randrange(1, 90) * 100_000, start, end)
        case 1:
            return Wish("reserve", group, share, dice.randrange(1, 40) * 100_000, start, end)
        case 2:
            return Wish("allow", group, share, 0, start, end)
        case _:
            return Wish("deny", group, share, 0, start, end)


class Client(threading.Thread):
    """One of them. `pause` and `go_on` by whoever checks."""

    def __init__(self, socket: Path, ledger: Ledger, seed: str) -> None:
        super().__init__(daemon=True)
        self._socket, self._ledger, self._dice = socket, ledger, random.Random(seed)
        self._talk: Talk | None = None
        self._may, self._idle = threading.Event(), threading.Event()
        self._ending = False
        self.failure: Exception | None = None

    def go_on(self) -> None:
        self._idle.clear()
        self._may.set()

    def pause(self) -> None:
        """Returns when no statement is under way."""
        self._may.clear()
        if not self._idle.wait(PATIENCE):
            raise TimeoutError("a statement has had no answer")
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        self._ending = True
        self._may.set()
        self.join(PATIENCE)

    def run(self) -> None:
        try:
            while True:
                if not self._may.is_set():
                    self._idle.set()
                self._may.wait()
                if self._ending:
                    break
                self._speak()
        except Exception as problem:  # noqa: BLE001  whoever waits for this thread raises it
            self.failure = problem
        finally:
            self._hang_up()
            self._idle.set()

    def _hang_up(self) -> None:
        if self._talk is not None:
            self._talk.close()
            self._talk = None

    def _speak(self) -> None:
        time.sleep(self._dice.uniform(0.0, 0.03))
        try:
            if self._talk is None:
                self._talk = Talk(self._socket, PATIENCE)
        except OSError:
            return  # nobody is there: nothing was said
        number = self._ledger.take(self._dice, KEPT)
        about: Wish | int = wish(self._dice) if number is None else number
        before = self._ledger.clock.now()
        try:
            answer = self._talk.ask(str(about) if isinstance(about, Wish) else f"Cancel {about}.")
        except OSError as problem:
            self._hang_up()
            self._ledger.doubt(about, self._since(before))
            self._ledger.answers[f"no answer ({type(problem).__name__})"] += 1
            return
        if "too many connections" in answer:  # said to whoever comes, not to what was asked
            self._hang_up()
            if isinstance(about, int):
                self._ledger.busy.discard(about)
            return
        self._note(about, answer, self._since(before))

    def _since(self, before: Span) -> Span:
        after = self._ledger.clock.now()
        return Span(min(before.low, after.low), max(before.high, after.high))

    def _note(self, about: Wish | int, answer: str, said: Span) -> None:
        ledger = self._ledger
        found = re.match(r"OK id=(\d+)", answer)
        refused = _NO.match(answer)
        if found and isinstance(about, Wish):
            ledger.accept(int(found[1]), about, said)
        elif answer == "OK" and isinstance(about, int):
            ledger.end(about)
        elif refused and isinstance(about, int) and refused[1] != "NO not stored":
            ledger.no_such(about, answer)
        elif not refused:
            ledger.wrong.append(f"{about} -> {answer}")
        if isinstance(about, int):
            ledger.busy.discard(about)
        ledger.answers["OK" if answer.startswith("OK") else refused[1] if refused else answer] += 1
