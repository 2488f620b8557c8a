"""The fixtures of the lab (tests/lab/fixtures.py) for the system tier."""

from tests.lab.fixtures import lan, mininet_line, mininet_one

__all__ = ["lan", "mininet_line", "mininet_one"]
