"""Flow tables as functions on sets of packets: what switches do, walked without packets. Pure."""
