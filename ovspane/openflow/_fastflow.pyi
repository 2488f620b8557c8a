"""The interface of the compiled flow codec, and of its plain Python version."""

from collections.abc import Iterable

from ovspane.placement.flow_rules import FlowRule

def bundle_adds(command: int, rules: list[FlowRule], bundle: int, xid: int) -> bytes:
    """BUNDLE_ADD messages of ADD or DELETE_STRICT of these flows, with xids from `xid` on. Raises ValueError if one
    cannot be expressed in OpenFlow.
    """

def identities(rules: Iterable[FlowRule]) -> dict[bytes, FlowRule]:
    """What a flow entry of a switch has that tells one flow from another, of each rule that OpenFlow can express."""

def recognise(part: bytes, known: dict[bytes, FlowRule]) -> tuple[list[FlowRule], list[bytes]]:
    """The flow entries of one part of a reply: rules known (`identities`), and the entries of all others. Raises
    OpenFlowError."""
