"""Training: one loop for every method and family."""
