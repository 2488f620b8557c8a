"""What the tiers share: private switches and daemons, strategies, oracles and walks."""
