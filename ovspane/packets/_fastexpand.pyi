"""The interface of the compiled expansion of simple flowgroups."""

from ovspane.packets.flowgroup import Flowgroup
from ovspane.packets.match import Match

def single_match(group: Flowgroup) -> Match | None:
    """The only match of the flowgroup; None if it has several, none, users or IPv6: expand it in general then."""
