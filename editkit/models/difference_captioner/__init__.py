"""A small network that says in words what differs between two pictures."""
