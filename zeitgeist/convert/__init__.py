"""Arrays from one form to another, each step with its price: exact, safe or lossy, and the loss measured."""
