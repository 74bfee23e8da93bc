"""The embedded world: real, licensed artwork from installed packages, and small models that we trained and ship."""
