"""What a party says of itself: records with versions and digests. What is not declared is refused (B3)."""
