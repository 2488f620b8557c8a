"""Desired against actual on all bridges: flows, meters, queues, the flood tree, and the status of each request."""
