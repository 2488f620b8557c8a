"""Clients of the daemon: listeners and sessions, who speaks, and the service that statements go through.

Listeners (accepting, listener, tls, compat) accept connections; each is a channel (its life) with an input and an
output stream, and a session is the conversation on it. The service gives statements in batches to a commit policy
(private_commit, shared_commit), which judges them on the live policy.
"""
