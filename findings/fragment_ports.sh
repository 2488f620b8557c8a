#!/bin/bash
# After conntrack, a later fragment has the connection's state and protocol, but 0 as its ports, in ct_tp_src/ct_tp_dst.
#
# Version: Open vSwitch 3.1.0 (Debian 12), userspace conntrack (here under the dummy datapath; netdev uses the same).
#
# A UDP datagram 1111 -> 2222 arrives as two valid fragments (the first of 1500 bytes: one of less than 1200, see
# ipf-set-min-frag, would count as invalid) and goes through ct(table=1). Conntrack puts them together, finds the
# connection, and hands on both fragments as tracked and not invalid. The fields of the connection's original direction
# ought to be the connection's, whatever packet carries them. They are right on the first fragment; on the other one
# ct_nw_proto is 17, but ct_tp_src and ct_tp_dst are 0. That is so with or without `commit`, and also when the
# connection is known already and both are +est. So a rule by ct_tp_dst, written in order to catch fragments, too,
# misses all but the first.
#
# Output, exit status 0:
#   Open vSwitch 3.1.0
#   as stated: the datagram's packets by ct_tp_dst, whole: 2222:1 0:0 other:0
#   as stated: the same, fragments, ct(table=1): 2222:1 0:1 other:0
#   as stated: the same, fragments, ct(commit,table=1): 2222:1 0:1 other:0
#   as stated: the same, fragments of a known connection: 2222:1 0:1 other:0
#   as stated: connections then: udp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1111,dport=2222)
# shellcheck source=begin
. "$(dirname "$0")/begin"

ethernet=0200000000020200000000010800
zeros() { printf '%0*d' $(($1 * 2)) 0; }
#         IPv4 header                               UDP header: 1111 -> 2222, length, no checksum
first=${ethernet}450005dc00072000401141080a0000010a000002045708ae0af80000$(zeros 1472)
second=${ethernet}45000544000700b9401160e70a0000010a000002$(zeros 1328)
answer=02000000000102000000000208004500002e00080000401166b50a0000020a00000108ae0457001a0000$(zeros 18)
whole=${ethernet}4500002e00080000401166b50a0000010a000002045708ae001a0000$(zeros 18)

count() { # CT-ACTION FRAME...: packets that arrive in table 1, by ports; all of them tracked, not invalid, UDP
    local action=$1 udp="ct_state=+trk-inv${state-},ip,ct_nw_proto=17"
    shift
    ofctl del-flows br0
    ofctl add-flow br0 "table=0,ip,actions=$action"
    ofctl add-flow br0 "table=1,priority=9,$udp,ct_tp_src=1111,ct_tp_dst=2222,actions=output:2"
    ofctl add-flow br0 "table=1,priority=8,$udp,ct_tp_src=0,ct_tp_dst=0,actions=output:2"
    ofctl add-flow br0 "table=1,priority=7,actions=output:2"
    frame p1 "$@"
    packets() { ofctl dump-flows br0 table=1 | sed -n "s/.*n_packets=\([0-9]*\),.*priority=$1[, ].*/\1/p"; }
    echo "2222:$(packets 9) 0:$(packets 8) other:$(packets 7)"
}

ports 2
expect "the datagram's packets by ct_tp_dst, whole" "2222:1 0:0 other:0" "$(count "ct(table=1)" "$whole")"
expect "the same, fragments, ct(table=1)" "2222:1 0:1 other:0" "$(count "ct(table=1)" "$first" "$second")"
expect "the same, fragments, ct(commit,table=1)" "2222:1 0:1 other:0" "$(count "ct(commit,table=1)" "$first" "$second")"
frame p2 "$answer"   # only now it is established
state=+est
expect "the same, fragments of a known connection" "2222:1 0:1 other:0" "$(count "ct(table=1)" "$first" "$second")"
expect "connections then" "udp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1111,dport=2222)" \
    "$(ovs-appctl dpctl/dump-conntrack | sed 's/,reply.*//')"
exit $changed
