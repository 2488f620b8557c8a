"""What this host's kernel and ovs-vswitchd say of themselves: HTB by netlink, the control socket."""
