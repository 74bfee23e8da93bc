"""The mathematics: pure functions, equations cited."""
