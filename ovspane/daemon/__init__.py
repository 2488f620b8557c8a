"""The daemon: the only place that wires the rooms together."""
