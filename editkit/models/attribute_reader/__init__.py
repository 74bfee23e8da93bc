"""A small convolutional network that reads the attributes of an avatar."""
