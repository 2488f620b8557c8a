#!/bin/bash
# `ovs-ctl restart` keeps the flows of a bridge, but loses all of them when one names a meter, and reports success.
#
# Version: Open vSwitch 3.1.0 (Debian 12), its scripts ovs-ctl and ovs-save.
#
# For a restart, ovs-save writes down groups and flows of every bridge, not the meters. After it, the flows are put back
# in one atomic bundle. The new ovs-vswitchd has no meter, refuses the flow that names one, and with it the bundle: the
# bridge is empty, also of flows that have nothing to do with meters. ovs-ctl exits with status 0, as in the good case.
# Whoever adds the first metered flow to a bridge thereby changes what a restart does to everybody's flows there.
# (Only a stand-in for modprobe is put before the real one, so that this leaves the machine's kernel alone.)
#
# Output, exit status 0 (what the scripts themselves say is left out):
#   Open vSwitch 3.1.0
#   as stated: exit status of a restart, no flow with a meter: 0
#   as stated: flows before and after it: 2 2
#   as stated: exit status of a restart, one flow of three with a meter: 0
#   as stated: flows before and after it: 3 0
#   as stated: the scripts' error: OFPMMFC_INVALID_METER
# shellcheck source=begin
. "$(dirname "$0")/begin"

script=/usr/share/openvswitch/scripts/ovs-ctl
[ -x $script ] || cannot "no $script"
mkdir /run/first /run/temp
printf '#!/bin/sh\n' >/run/first/modprobe
chmod +x /run/first/modprobe
export PATH="/run/first:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" TMPDIR=/run/temp

restart() {
    timeout 100 $script --no-ovsdb-server --no-record-hostname --no-mlockall --system-id=random \
        --ovs-vswitchd-options="$OVSPANE_VSWITCHD_ARGS" restart >/run/said 2>&1 </dev/null
}
flows() { ofctl dump-flows br0 | grep -c actions=; }

ports 1
ofctl add-flow br0 priority=5,udp,tp_dst=7777,actions=drop
ofctl add-flow br0 priority=4,arp,actions=output:1
before=$(flows)
restart
expect "exit status of a restart, no flow with a meter" 0 $?
expect "flows before and after it" "2 2" "$before $(flows)"

ofctl add-meter br0 meter=1,pktps,band=type=drop,rate=100
ofctl add-flow br0 priority=6,icmp,actions=meter:1,output:1
before=$(flows)
restart
expect "exit status of a restart, one flow of three with a meter" 0 $?
expect "flows before and after it" "3 0" "$before $(flows)"
expect "the scripts' error" OFPMMFC_INVALID_METER "$(grep -o 'OFPMMFC_[A-Z_]*' /run/said | sort -u)"
exit $changed
