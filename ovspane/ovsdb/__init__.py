"""The host's Open_vSwitch database: rows as values, transactions, locks, policing."""
