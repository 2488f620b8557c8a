"""Which bridge gets which flows, meters and queues; which way reservations take. Pure."""
