"""Text to values and back: tokens, parser, statements, replies, and the one verb table."""
