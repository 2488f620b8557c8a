#!/bin/bash
# Userspace conntrack takes all SCTP between two hosts for one connection: ports are neither told apart nor matchable.
#
# Version: Open vSwitch 3.1.0 (Debian 12), userspace conntrack (here under the dummy datapath; netdev uses the same).
#
# One host opens an association 1111 -> 2222 to another (valid INIT and INIT ACK) through ct(commit,table=1), and then a
# second one, 3333 -> 2222. The second INIT is not +new but +est, on the strength of the first association; conntrack
# has one entry, with ports 0; and ct_tp_dst, which ovs-fields(7) has for TCP, UDP and SCTP, is 0. Of UDP from
# the same ports, the second packet is a new connection. A policy "established traffic passes, new by port" thus lets
# through any SCTP between two hosts once it let through one association; there is no error and no message.
#
# Output, exit status 0:
#   Open vSwitch 3.1.0
#   as stated: UDP from 1111, its answer, UDP from 3333: to 2222: 2 new, 0 est; to 0: 0 new, 0 est
#   as stated: INIT from 1111, INIT ACK, INIT from 3333: to 2222: 0 new, 0 est; to 0: 1 new, 1 est
#   as stated: entries of conntrack: sctp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=0,dport=0)
# shellcheck source=begin
. "$(dirname "$0")/begin"

# Ethernet, IPv4 and SCTP or UDP headers, with right checksums (UDP: none)
to=0200000000020200000000010800
from=0200000000010200000000020800
ends=0a0000010a000002
init=0100001411223344000100000001000100000001
init_ack=0200001c556677880001000000010001000000010007000801020304
sctp_first=${to}45000034000800004084663c${ends}045708ae00000000f3703180$init
sctp_answer=${from}4500003c00080000408466340a0000020a00000108ae045711223344dd7d69d0$init_ack
sctp_second=${to}45000034000800004084663c${ends}0d0508ae000000007214e573$init
udp_first=${to}4500002e00080000401166b5${ends}045708ae001a0000$(printf '%036d' 0)
udp_answer=${from}4500002e00080000401166b50a0000020a00000108ae0457001a0000$(printf '%036d' 0)
udp_second=${to}4500002e00080000401166b5${ends}0d0508ae001a0000$(printf '%036d' 0)

seen() { # PROTOCOL FRAME FRAME FRAME: the packets from p1, by ct_tp_dst and state
    local valid=ct_state=+trk-inv proto=ip,ct_nw_proto=$1
    ofctl del-flows br0
    ovs-appctl dpctl/flush-conntrack
    ofctl add-flow br0 "table=0,ip,actions=ct(commit,table=1)"
    ofctl add-flow br0 "table=1,priority=9,$valid-rpl+new-est,$proto,ct_tp_dst=2222,actions=drop"
    ofctl add-flow br0 "table=1,priority=8,$valid-rpl-new+est,$proto,ct_tp_dst=2222,actions=drop"
    ofctl add-flow br0 "table=1,priority=7,$valid-rpl+new-est,$proto,ct_tp_dst=0,actions=drop"
    ofctl add-flow br0 "table=1,priority=6,$valid-rpl-new+est,$proto,ct_tp_dst=0,actions=drop"
    frame p1 "$2"
    frame p2 "$3"
    frame p1 "$4"
    packets() { ofctl dump-flows br0 | sed -n "s/.*n_packets=\([0-9]*\),.*priority=$1,.*/\1/p"; }
    echo "to 2222: $(packets 9) new, $(packets 8) est; to 0: $(packets 7) new, $(packets 6) est"
}

ports 2
expect "UDP from 1111, its answer, UDP from 3333" \
    "to 2222: 2 new, 0 est; to 0: 0 new, 0 est" \
    "$(seen 17 "$udp_first" "$udp_answer" "$udp_second")"
expect "INIT from 1111, INIT ACK, INIT from 3333" \
    "to 2222: 0 new, 0 est; to 0: 1 new, 1 est" \
    "$(seen 132 "$sctp_first" "$sctp_answer" "$sctp_second")"
expect "entries of conntrack" "sctp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=0,dport=0)" \
    "$(ovs-appctl dpctl/dump-conntrack | sed 's/,reply.*//')"
exit $changed
