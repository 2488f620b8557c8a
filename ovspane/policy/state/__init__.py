"""What was granted and accepted: shares, principals, requests, and their room over time. Pure."""
