"""CLIP: a picture and a text tower in one space."""
