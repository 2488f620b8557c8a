"""The interface of the compiled overlap index and of its plain twin `ovspane._fastmatch_py`."""

from typing import final

@final
class MatchIndex:
    """A set of ternary matches, each under a handle that the caller chooses, with a tag that it may change.

    A match is (value, mask), two integers in 0 .. 2**512-1 with `value & ~mask == 0` (match.Match); a handle is in 0
    .. 2**63-1, a tag in 0 .. 2**31-1. Every method raises TypeError for another type and ValueError for an integer out
    of range or a value with bits outside its mask, and then changes nothing; MemoryError. Results come in no
    particular order. `skip` has one byte a tag: matches whose tag has a non-zero byte are passed over, tags beyond
    its end are not.
    """

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, handle: object) -> bool: ...
    def add(self, handle: int, value: int, mask: int, tag: int = 0) -> None:
        """Put a match in. Raises ValueError if the handle is there already."""
    def remove(self, handle: int) -> None:
        """Take a match out. Raises KeyError if the handle is not there."""
    def retag(self, handle: int, tag: int) -> None:
        """Change a tag. Raises KeyError if the handle is not there."""
    def overlapping(
        self, value: int, mask: int, skip: bytes | bytearray | None = None, limit: int | None = None
    ) -> list[int]:
        """Handles of the matches that share a packet with the given one; if `limit` is given, any so many of them."""
    def overlaps_any(self, value: int, mask: int) -> bool:
        """True iff some match shares a packet with the given one."""
    def overlapping_tags(self, value: int, mask: int) -> list[int]:
        """The different tags of the matches that share a packet with the given one."""
    def missing(self, value: int, mask: int, other: MatchIndex, skip: bytes | bytearray | None = None) -> list[int]:
        """Handles of the matches that share a packet with the given one and with no match of `other`."""
    def covering(self, value: int, mask: int) -> list[int]:
        """Handles of the matches that have every packet of the given one."""
    def covered_by(self, value: int, mask: int) -> list[int]:
        """Handles of the matches whose every packet the given one has."""

def overlapped(indexes: list[MatchIndex], value: int, mask: int) -> list[int]:
    """The positions of the indexes in which some match shares a packet with the given one, in order."""
