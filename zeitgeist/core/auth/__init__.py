"""Who is at the other end, by what proof, and what it may do. Private keys and tokens stay in the host (H1–H3)."""
