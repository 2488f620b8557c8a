"""OpenFlow 1.4 (and 1.0 for one bit): the codec, and one session per bridge."""
