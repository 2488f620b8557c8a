"""ovspane: Participatory Networking (PANE, SIGCOMM 2013) for hosts that run Open vSwitch.

The rooms and their layers are drawn in docs/architecture.md; `ovspane.daemon.wiring` is the only place that wires them
together.
"""

__version__ = "0.1.0"
