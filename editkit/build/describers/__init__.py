"""What looks at both pictures of a pair and says what was asked for."""
