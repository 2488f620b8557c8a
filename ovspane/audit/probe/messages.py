"""The OpenFlow that only probes use: the catch flow, and packets with a token. No I/O.

How a probe is marked and caught: it enters table 0 with a session's token in register 14 and its number in register 13,
goes through the pipeline as any packet with its headers, and comes back to table 0 with our mark set. There the catch
flow (table 0, one below the entry flow's priority, register 14 = token) sends it to the one connection that asked for
it. Registers live only inside Open vSwitch: no packet from a wire can have the token.
"""

from __future__ import annotations

from ovspane.openflow.actions import apply_actions, controller, load_register, resubmit
from ovspane.openflow.constants import ADD, DELETE_STRICT
from ovspane.openflow.flow_mods import raw_flow_mod
from ovspane.openflow.framing import Request
from ovspane.openflow.oxm import oxm_register, register_header
from ovspane.openflow.packet_out import packet_out_actions

#: "pprb": not the cookie of the pipeline, so the daemon leaves the catch flow alone.
COOKIE = 0x70707262 << 32
PRIORITY = 0xFFFE  # the entry flow has 0xffff
#: A catch flow of a probe that was killed goes by itself (seconds).
LIFETIME = 30
TOKEN_REGISTER, NUMBER_REGISTER = 14, 13
TOKEN_HEADER, NUMBER_HEADER = register_header(TOKEN_REGISTER), register_header(NUMBER_REGISTER)


def _mark_and_resubmit(token: int, number: int) -> bytes:
    return load_register(TOKEN_REGISTER, token) + load_register(NUMBER_REGISTER, number) + resubmit(0)


def _catch_mod(command: int, token: int, instructions: bytes) -> Request:
    return raw_flow_mod(
        *(command, 0, PRIORITY, oxm_register(TOKEN_REGISTER, token), instructions),
        cookie=COOKIE | token,
        idle_timeout=LIFETIME,
        hard_timeout=LIFETIME,
    )


def add_catch_flow(token: int, controller_id: int, deliver: bool) -> Request:
    """Add the catch flow, or renew its time. `deliver`: the packet then goes on as one that is no probe."""
    actions = controller(controller_id)
    if deliver:
        actions += _mark_and_resubmit(0, 0)
    return _catch_mod(ADD, token, apply_actions(actions))


def delete_catch_flow(token: int) -> Request:
    """Undo `add_catch_flow`."""
    return _catch_mod(DELETE_STRICT, token, b"")


def send_probe(frame: bytes, in_port: int, token: int, number: int) -> Request:
    """Let a frame enter table 0 as if it had come in by `in_port` (16-bit number)."""
    return packet_out_actions(frame, in_port, _mark_and_resubmit(token, number))
