"""FLOW_MOD messages: of a rule of ours, of any flow at all, and the deletion of all flows of a cookie. No I/O.

Source: OpenFlow 1.4.1 section 7.3.4.1.
"""

from __future__ import annotations

import struct
from struct import Struct

from ovspane.openflow.constants import (
    ADD,
    ALL_TABLES,
    ANY_GROUP,
    ANY_PORT,
    DELETE,
    DELETE_STRICT,
    FLOW_MOD,
    NO_BUFFER,
    VERSION,
)
from ovspane.openflow.framing import Request
from ovspane.openflow.instructions import encode_instructions
from ovspane.openflow.oxm import encode_match, wrap_match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG, FlowRule

_FLOW_MOD = Struct("!BBHIQQBBHHHIIIHH")  # header and body up to the match
_BODY = Struct("!QQBBHHHIIIHH")


def flow_mod(command: int, rule: FlowRule, xid: int) -> bytes:
    """ADD or DELETE_STRICT of one flow. The latter touches it only if it carries our cookie.

    Raises ValueError if the match or a number cannot be expressed in OpenFlow.
    """
    cookie, cookie_mask = (rule.cookie, 0) if command == ADD else (COOKIE_TAG, COOKIE_MASK)
    match = encode_match(rule.match)
    instructions = b"" if command == DELETE_STRICT else encode_instructions(rule.instructions)
    try:
        return b"".join(
            (
                _FLOW_MOD.pack(
                    *(VERSION, FLOW_MOD, 48 + len(match) + len(instructions), xid, cookie, cookie_mask, rule.table),
                    *(command, 0, 0, rule.priority, NO_BUFFER, ANY_PORT, ANY_GROUP, 0, 0),
                ),
                match,
                instructions,
            )
        )
    except struct.error as problem:
        raise ValueError(f"{rule}: {problem}") from None


def raw_flow_mod(
    command: int,
    table: int,
    priority: int,
    oxm: bytes,
    instructions: bytes = b"",
    *,
    cookie: int = 0,
    cookie_mask: int = 0,
    idle_timeout: int = 0,
    hard_timeout: int = 0,
) -> Request:
    """A flow-mod of a flow that is no FlowRule: `oxm` are the fields of its match (oxm.oxm_field), `instructions` those
    of actions; timeouts in seconds, 0: none."""
    fields = (cookie, cookie_mask, table, command, idle_timeout, hard_timeout, priority)
    body = _BODY.pack(*fields, NO_BUFFER, ANY_PORT, ANY_GROUP, 0, 0)
    return FLOW_MOD, body + wrap_match(oxm) + instructions


def delete_by_cookie(cookie: int, cookie_mask: int, table: int = ALL_TABLES) -> Request:
    """DELETE of every flow whose cookie equals `cookie` under `cookie_mask`, in one table or in all."""
    return raw_flow_mod(DELETE, table, 0, b"", cookie=cookie, cookie_mask=cookie_mask)
