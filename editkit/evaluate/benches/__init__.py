"""Public benches, read and written in their own forms."""
