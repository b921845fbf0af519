"""From a connection to a session: handshake, negotiation, life and end of links (B1, H1–H3)."""
