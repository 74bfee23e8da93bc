"""Recipes: one TOML file that says everything about a run."""
