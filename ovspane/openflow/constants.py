"""The numbers of OpenFlow 1.4 and of Nicira's extension that we use. Nothing else in the project defines any.

Sources: OpenFlow 1.4.1 (section numbers below); Open vSwitch include/openflow/nicira-ext.h and lib/ofp-actions.c (NX*).
Numbers that only OpenFlow 1.0 has are in openflow10.
"""

from __future__ import annotations

VERSION = 0x05
VERSION_NAMES = {1: "OpenFlow10", 2: "OpenFlow11", 3: "OpenFlow12", 4: "OpenFlow13", 5: "OpenFlow14", 6: "OpenFlow15"}

# Message types, OFPT_* (7.1.1)
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, EXPERIMENTER = 0, 1, 2, 3, 4
FEATURES_REQUEST, FEATURES_REPLY, SET_CONFIG = 5, 6, 9
PACKET_IN, PACKET_OUT, FLOW_MOD = 10, 13, 14
MULTIPART_REQUEST, MULTIPART_REPLY = 18, 19
BARRIER_REQUEST, BARRIER_REPLY = 20, 21
METER_MOD, BUNDLE_CONTROL, BUNDLE_ADD = 29, 33, 34

#: Request type -> reply type.
REPLIES = {
    ECHO_REQUEST: ECHO_REPLY,
    FEATURES_REQUEST: FEATURES_REPLY,
    MULTIPART_REQUEST: MULTIPART_REPLY,
    BARRIER_REQUEST: BARRIER_REPLY,
    BUNDLE_CONTROL: BUNDLE_CONTROL,
}

# Multipart types, OFPMP_* (7.3.5)
FLOW_STATS, TABLE_STATS, METER_STATS, METER_CONFIG = 1, 3, 9, 10
PORT_DESC, FLOW_MONITOR = 13, 16

# Flow and meter commands, OFPFC_* and OFPMC_* (7.3.4.1, 7.3.4.4)
ADD, DELETE, DELETE_STRICT = 0, 3, 4
METER_ADD, METER_MODIFY, METER_DELETE = 0, 1, 2
#: OFPMF_*: the unit of rate and burst (kbit/s, packets/s), whether a burst is given, whether the meter counts
METER_KBPS, METER_PKTPS, METER_BURST, METER_STATS_FLAG = 1, 2, 4, 8
DROP_BAND = 1  # OFPMBT_DROP

# Bundle control types and flags (7.3.9)
BUNDLE_OPEN, BUNDLE_COMMIT, BUNDLE_COMMITTED, BUNDLE_DISCARD = 0, 4, 5, 6
ATOMIC_ORDERED = 3

# Reserved numbers (7.2.1.2, 7.3.4.1, 7.3.4.4)
ANY_PORT = ANY_GROUP = ALL_METERS = NO_BUFFER = 0xFFFFFFFF
CONTROLLER_PORT = 0xFFFFFFFD
IN_PORT, TO_TABLES = 0xFFF8, 0xFFF9  # OFPP_IN_PORT, OFPP_TABLE as 16-bit ports; the latter in packet-outs only
ALL_TABLES = 0xFF
MAX_METER_ID = 0xFFFF0000
MAX_BURST = MAX_RATE = 0xFFFFFFFF  # kbit, kbit/s
#: OFPCML_NO_BUFFER: a packet-in has the whole frame
WHOLE_FRAME = 0xFFFF

# Instructions, OFPIT_* (7.2.4), and actions, OFPAT_* (7.2.5)
GOTO_TABLE, APPLY_ACTIONS, METER = 1, 4, 6
OUTPUT, SET_QUEUE, EXPERIMENTER_ACTION = 0, 21, 0xFFFF

#: NX_VENDOR_ID: the experimenter of Nicira's messages and actions
NICIRA = 0x2320
NXAST_RESUBMIT, NXAST_REG_LOAD, NXAST_RESUBMIT_TABLE, NXAST_CONTROLLER, NXAST_CONJUNCTION = 1, 7, 14, 20, 34
NXAST_CT, NXAST_CONTROLLER2, NXAST_CT_CLEAR = 35, 37, 43
NXT_SET_ASYNC_CONFIG, NXT_SET_CONTROLLER_ID = 19, 20

# Classes and fields of matches (7.2.3.7; lib/meta-flow.xml for those of Nicira)
OPENFLOW_BASIC, NXM_1 = 0x8000, 0x0001
OXM_IN_PORT, OXM_ETH_DST, OXM_ETH_SRC, OXM_ETH_TYPE, OXM_VLAN_VID = 0, 3, 4, 5, 6
OXM_IP_DSCP, OXM_IP_PROTO, OXM_IPV4_SRC, OXM_IPV4_DST, OXM_IPV6_SRC, OXM_IPV6_DST = 8, 10, 11, 12, 26, 27
OXM_TCP_SRC, OXM_TCP_DST, OXM_UDP_SRC, OXM_UDP_DST, OXM_SCTP_SRC, OXM_SCTP_DST = 13, 14, 15, 16, 17, 18
OXM_ICMPV4_TYPE, OXM_ICMPV4_CODE, OXM_ICMPV6_TYPE, OXM_ICMPV6_CODE = 19, 20, 29, 30
#: NXM_NX_CONJ_ID; NXM_NX_REG0 to REG15 have the numbers 0 to 15
NXM_CONJ_ID, NXM_REGISTERS = 37, 16
NXM_IP_FRAG, NXM_CT_STATE, NXM_CT_NW_PROTO, NXM_CT_TP_SRC, NXM_CT_TP_DST = 26, 105, 119, 124, 125
