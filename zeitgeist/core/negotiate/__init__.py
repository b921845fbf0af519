"""Two declarations → one agreement, or every reason why not (A7, A8, B1–B3)."""
