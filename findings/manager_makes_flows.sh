#!/bin/bash
# `ovs-vsctl set-manager tcp:...` changes the forwarding of every bridge, by flows that dump-flows does not show.
#
# Version: Open vSwitch 3.1.0 (Debian 12), any datapath (here the dummy one).
#
# A manager is a matter of the database: where ovsdb-server connects to. But ovs-vswitchd reads it too, and when it is
# an address of tcp: (or ssl:), sets up in-band control to it on every bridge, also where no bridge ever had an OpenFlow
# controller: seven flows above every priority that a controller can give, NORMAL for TCP of the manager's
# address and port, and for ARP and DHCP. A bridge of fail_mode=secure without any flow, which forwards nothing, then
# floods a packet for the manager from any port to all others. `ovs-ofctl dump-flows` goes on showing no flow at all;
# only `ovs-appctl bridge/dump-flows` does. Managers of unix: and ptcp: have no such effect, and the bridge's
# other_config:disable-in-band=true ends it.
#
# Output, exit status 0:
#   Open vSwitch 3.1.0
#   as stated: no manager: hidden flows 0, dump-flows 0, to the manager: drop
#   as stated: ptcp:6640: hidden flows 0, dump-flows 0, to the manager: drop
#   as stated: unix:/run/manager.sock: hidden flows 0, dump-flows 0, to the manager: drop
#   as stated: tcp:192.0.2.9:6640: hidden flows 7, dump-flows 0, to the manager: 100,2
#   as stated: the same and disable-in-band: hidden flows 0, dump-flows 0, to the manager: drop
# (100 is the bridge's own port.)
# shellcheck source=begin
. "$(dirname "$0")/begin"

seen() {
    sleep 3   # in-band control is set up by the switch's own clock
    echo "hidden flows $(ovs-appctl bridge/dump-flows br0 | grep -cE 'priority=18[0-9]{4},')," \
        "dump-flows $(ofctl dump-flows br0 | grep -c actions=)," \
        "to the manager: $(ovs-appctl ofproto/trace br0 in_port=1,tcp,nw_dst=192.0.2.9,tp_dst=6640 \
            | sed -n 's/^Datapath actions: //p')"
}

ports 2
expect "no manager" "hidden flows 0, dump-flows 0, to the manager: drop" "$(seen)"
for manager in ptcp:6640 unix:/run/manager.sock; do
    vsctl set-manager $manager
    expect $manager "hidden flows 0, dump-flows 0, to the manager: drop" "$(seen)"
done
vsctl set-manager tcp:192.0.2.9:6640
expect tcp:192.0.2.9:6640 "hidden flows 7, dump-flows 0, to the manager: 100,2" "$(seen)"
vsctl set bridge br0 other_config:disable-in-band=true
expect "the same and disable-in-band" "hidden flows 0, dump-flows 0, to the manager: drop" "$(seen)"
exit $changed
