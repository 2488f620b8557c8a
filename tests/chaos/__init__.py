"""The chaos machine: a daemon, its switch and its clients, while everything that can fail does; see __main__."""
