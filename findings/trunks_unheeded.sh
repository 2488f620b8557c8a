#!/bin/bash
# A change of a port's trunks alone stays without effect until somebody changes something else.
#
# Version: Open vSwitch 3.1.0 (Debian 12); how ovs-vswitchd reads its database, not a datapath's matter (here the dummy
# one).
#
# A trunk port passes VLAN 7. `ovs-vsctl --no-wait set port p1 trunks=9`, or any OVSDB client that writes the column and
# nothing beside, succeeds, and the database says 9. But frames of VLAN 7 go on leaving by the port, and those of VLAN 9
# do not, in traces and for real: not for a moment, but for as long as nothing else is changed. ovs-vswitchd does not
# wake up for this column. A change of `tag` made in the same way counts at once. A plain ovs-vsctl never shows this,
# for it raises next_cfg in the same transaction, and that wakes ovs-vswitchd. Who writes `trunks` through OVSDB has to
# raise next_cfg, too.
#
# Output, exit status 0:
#   Open vSwitch 3.1.0
#   as stated: VLAN 7 leaves by p1 while trunks=7: yes
#   as stated: exit status of the change to trunks=9: 0
#   as stated: trunks in the database: [9]
#   as stated: VLAN 7 leaves by p1 10 s later: yes
#   as stated: VLAN 9 leaves by p1 10 s later: no
#   as stated: frames of VLAN 7 that p1 sent then: 1
#   as stated: VLAN 7 leaves by p1 once next_cfg is raised: no
#   as stated: VLAN 9 leaves by p1 once next_cfg is raised: yes
#   as stated: VLAN 5 leaves by p2 1 s after tag=5 without next_cfg: yes
# shellcheck source=begin
. "$(dirname "$0")/begin"

leaves() { # VLAN PORT: whether a frame of the VLAN that arrives at p3 leaves by the port
    ovs-appctl ofproto/trace br0 "in_port=3,dl_vlan=$1,dl_src=02:00:00:00:00:33,dl_dst=02:00:00:00:00:99" \
        | grep -qE "^Datapath actions: (.*,)?$2(,|\$)" && echo yes || echo no
}
sent() { ovs-ofctl dump-ports br0 1 | sed -n 's/.*tx pkts=\([0-9]*\).*/\1/p'; }

ports 3
vsctl set port p2 tag=4
ofctl add-flow br0 actions=NORMAL
vsctl set port p1 trunks=7
expect "VLAN 7 leaves by p1 while trunks=7" yes "$(leaves 7 1)"

ovs-vsctl --no-wait set port p1 trunks=9
expect "exit status of the change to trunks=9" 0 $?
expect "trunks in the database" "[9]" "$(ovs-vsctl --no-wait get port p1 trunks)"
sleep 10
expect "VLAN 7 leaves by p1 10 s later" yes "$(leaves 7 1)"
expect "VLAN 9 leaves by p1 10 s later" no "$(leaves 9 1)"
before=$(sent)
frame p3 "ffffffffffff0200000000338100000788b5$(printf '%092d' 0)"
expect "frames of VLAN 7 that p1 sent then" 1 $(($(sent) - before))

vsctl set Open_vSwitch . external_ids:anything=else
expect "VLAN 7 leaves by p1 once next_cfg is raised" no "$(leaves 7 1)"
expect "VLAN 9 leaves by p1 once next_cfg is raised" yes "$(leaves 9 1)"

ovs-vsctl --no-wait set port p2 tag=5
sleep 1
expect "VLAN 5 leaves by p2 1 s after tag=5 without next_cfg" yes "$(leaves 5 pop_vlan,2)"
exit $changed
