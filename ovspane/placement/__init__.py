"""Which bridge gets which flows, meters and queues; which paths reservations take. Pure."""
