#!/bin/bash
# A flow by ct_tp_dst without ct_nw_proto is taken without a word, and matches every port.
#
# Version: Open vSwitch 3.1.0 (Debian 12); ovs-ofctl and any datapath (here the dummy one).
#
# ovs-fields(7) asks of ct_tp_src and ct_tp_dst only what it asks of all fields of the connection's tuple, and `udp` in
# the match says the protocol already. Still, from `ct_state=+trk+new,udp,ct_tp_dst=53,actions=drop` the port is left
# out on the way: exit status 0, no message (tp_dst without protocol at least gets one), and the switch has a flow that
# drops new connections of all ports. A second flow for port 54 then is the same flow and takes the place of the first.
# With ct_nw_proto=17 beside it the port stays. (ct_nw_src where it is not allowed is refused with BAD_PREREQ; this is
# not.)
#
# Output, exit status 0:
#   Open vSwitch 3.1.0
#   as stated: exit status of add-flow for new UDP connections to port 53: 0
#   as stated: what ovs-ofctl said: nothing
#   as stated: flows in table 1: priority=9,ct_state=+new+trk,udp
#   as stated: datagrams 1111 -> 2222 that it took: 1
#   as stated: flows in table 1 after one more for port 54: priority=9,ct_state=+new+trk,udp
#   as stated: both with ct_nw_proto=17: priority=9,ct_state=+new+trk,ct_nw_proto=17,ct_tp_dst=53,udp
#   priority=9,ct_state=+new+trk,ct_nw_proto=17,ct_tp_dst=54,udp
# shellcheck source=begin
. "$(dirname "$0")/begin"

flows() { ofctl --no-stats dump-flows br0 table=1 | sed -n 's/.*\(priority=[^ ]*\) actions=.*/\1/p' | sort; }
match=table=1,priority=9,ct_state=+trk+new,udp

ports 1
ofctl add-flow br0 "table=0,ip,actions=ct(table=1)"
ovs-ofctl -O OpenFlow14 add-flow br0 "$match,ct_tp_dst=53,actions=drop" >/run/said 2>&1
expect "exit status of add-flow for new UDP connections to port 53" 0 $?
expect "what ovs-ofctl said" nothing "$([ -s /run/said ] && cat /run/said || echo nothing)"
expect "flows in table 1" "priority=9,ct_state=+new+trk,udp" "$(flows)"
frame p1 "02000000000202000000000108004500002e00080000401166b50a0000010a000002045708ae001a0000$(printf '%036d' 0)"
expect "datagrams 1111 -> 2222 that it took" 1 \
    "$(ofctl dump-flows br0 table=1 | sed -n 's/.*n_packets=\([0-9]*\),.*/\1/p')"
ofctl add-flow br0 "$match,ct_tp_dst=54,actions=drop"
expect "flows in table 1 after one more for port 54" "priority=9,ct_state=+new+trk,udp" "$(flows)"

ofctl del-flows br0 table=1
ofctl add-flow br0 "$match,ct_nw_proto=17,ct_tp_dst=53,actions=drop"
ofctl add-flow br0 "$match,ct_nw_proto=17,ct_tp_dst=54,actions=drop"
expect "both with ct_nw_proto=17" "priority=9,ct_state=+new+trk,ct_nw_proto=17,ct_tp_dst=53,udp
priority=9,ct_state=+new+trk,ct_nw_proto=17,ct_tp_dst=54,udp" "$(flows)"
exit $changed
