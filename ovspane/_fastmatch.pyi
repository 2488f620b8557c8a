"""The interface of the compiled wildcard-intersection engine and of its plain twin `ovspane._fastmatch_py`."""

from typing import final

@final
class MatchIndex:
    """A set of ternary matches, each under a handle that the caller chooses.

    A match is (value, mask), two integers in 0 .. 2**512-1 with `value & ~mask == 0` (match.Match); a handle is in 0
    .. 2**63-1. Every method raises TypeError for another type and ValueError for an integer out of range or a value
    with bits outside its mask, and then changes nothing. Results come in no particular order.
    """

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, handle: object) -> bool: ...
    def add(self, handle: int, value: int, mask: int) -> None:
        """Put a match in. Raises ValueError if the handle is there already; MemoryError."""
    def remove(self, handle: int) -> None:
        """Take a match out. Raises KeyError if the handle is not there."""
    def overlapping(self, value: int, mask: int) -> list[int]:
        """Handles of the matches that share a packet with the given one."""
    def covering(self, value: int, mask: int) -> list[int]:
        """Handles of the matches that have every packet of the given one."""
    def covered_by(self, value: int, mask: int) -> list[int]:
        """Handles of the matches whose every packet the given one has."""
