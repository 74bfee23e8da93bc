"""A small convolutional network that finds the objects of a scene: class, colour, box."""
