"""Teachers of texts: what proposes (caption, instruction, edited caption)."""
