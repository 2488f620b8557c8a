"""What goes wrong in OpenFlow: bytes that cannot be read, and the ERROR messages of a switch. No I/O.

Source: OpenFlow 1.4.1 section 7.5.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


class OpenFlowError(ValueError):
    """Bytes that are not a message we can read: cut short, wrong lengths, not OpenFlow 1.4."""


_ERROR_NAMES = {
    0: "HELLO_FAILED INCOMPATIBLE EPERM",
    1: "BAD_REQUEST BAD_VERSION BAD_TYPE BAD_MULTIPART BAD_EXPERIMENTER BAD_EXP_TYPE EPERM BAD_LEN BUFFER_EMPTY "
    "BUFFER_UNKNOWN BAD_TABLE_ID IS_SLAVE BAD_PORT BAD_PACKET MULTIPART_BUFFER_OVERFLOW",
    2: "BAD_ACTION BAD_TYPE BAD_LEN BAD_EXPERIMENTER BAD_EXP_TYPE BAD_OUT_PORT BAD_ARGUMENT EPERM TOO_MANY BAD_QUEUE "
    "BAD_OUT_GROUP MATCH_INCONSISTENT UNSUPPORTED_ORDER BAD_TAG BAD_SET_TYPE BAD_SET_LEN BAD_SET_ARGUMENT",
    3: "BAD_INSTRUCTION UNKNOWN_INST UNSUP_INST BAD_TABLE_ID UNSUP_METADATA UNSUP_METADATA_MASK BAD_EXPERIMENTER "
    "BAD_EXP_TYPE BAD_LEN EPERM DUP_INST",
    4: "BAD_MATCH BAD_TYPE BAD_LEN BAD_TAG BAD_DL_ADDR_MASK BAD_NW_ADDR_MASK BAD_WILDCARDS BAD_FIELD BAD_VALUE "
    "BAD_MASK BAD_PREREQ DUP_FIELD EPERM",
    5: "FLOW_MOD_FAILED UNKNOWN TABLE_FULL BAD_TABLE_ID OVERLAP EPERM BAD_TIMEOUT BAD_COMMAND BAD_FLAGS CANT_SYNC "
    "BAD_PRIORITY",
    6: "GROUP_MOD_FAILED",
    7: "PORT_MOD_FAILED BAD_PORT BAD_HW_ADDR BAD_CONFIG BAD_ADVERTISE EPERM",
    8: "TABLE_MOD_FAILED",
    9: "QUEUE_OP_FAILED BAD_PORT BAD_QUEUE EPERM",
    10: "SWITCH_CONFIG_FAILED",
    11: "ROLE_REQUEST_FAILED STALE UNSUP BAD_ROLE",
    12: "METER_MOD_FAILED UNKNOWN METER_EXISTS INVALID_METER UNKNOWN_METER BAD_COMMAND BAD_FLAGS BAD_RATE BAD_BURST "
    "BAD_BAND BAD_BAND_VALUE OUT_OF_METERS OUT_OF_BANDS",
    13: "TABLE_FEATURES_FAILED",
    17: "BUNDLE_FAILED UNKNOWN EPERM BAD_ID BUNDLE_EXIST BUNDLE_CLOSED OUT_OF_BUNDLES BAD_TYPE BAD_FLAGS MSG_BAD_LEN "
    "MSG_BAD_XID MSG_UNSUP MSG_CONFLICT MSG_TOO_MANY MSG_FAILED TIMEOUT BUNDLE_IN_PROGRESS",
    0xFFFF: "EXPERIMENTER",
}


@dataclass(frozen=True, slots=True)
class SwitchError:
    """An ERROR message. `data` is the beginning of the message that the switch refuses (of a HELLO_FAILED: a text)."""

    type: int
    code: int
    data: bytes = b""

    @property
    def name(self) -> str:
        """The specification's name, e.g. `BAD_MATCH/BAD_PREREQ`; numbers where there is none here."""
        kind, *codes = _ERROR_NAMES.get(self.type, str(self.type)).split()
        return f"{kind}/{codes[self.code] if self.code < len(codes) else self.code}"

    def __str__(self) -> str:
        return f"{self.name} ({self.type}/{self.code})"


#: OFPET_METER_MOD_FAILED, OFPMMFC_METER_EXISTS
METER_EXISTS = (12, 1)


def parse_error(body: bytes) -> SwitchError:
    """The error that the body of an ERROR message names. Raises OpenFlowError."""
    try:
        kind, code = struct.unpack_from("!HH", body)
    except struct.error:
        raise OpenFlowError("error is cut short") from None
    return SwitchError(kind, code, body[4:])
