"""What is judged: a run, or another model with or without a recipe beside it, and where its figures go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editkit.errors import UserError
from editkit.models.locate import locate_model
from editkit.recipe.load import load_recipe
from editkit.recipe.schema import Recipe
from editkit.runs import RUNS, find_run


@dataclass(frozen=True, slots=True)
class Target:
    """A model that is judged.

    Attributes:
        run: its folder, where it is a run.
        recipe: what trained it; None where none lies beside the weights.
        place: the folder in which `evaluation/` is written: the run's, or one under `runs/`.
    """

    run: Path | None
    recipe: Recipe | None
    place: Path


def find_target(run: str) -> Target:
    """Finds what is judged.

    Args:
        run: a run, "latest", or a model: "lab:NAME", a folder, a Hub id.

    Raises:
        UserError: there is none of that name.
    """
    folder: Path | None = None
    try:
        folder = find_run(run)
        path = folder / "recipe.toml"
    except UserError:
        if run == "latest":
            raise
        path = locate_model(run) / "recipe.toml"
    recipe = load_recipe(path)[0] if path.is_file() else None
    return Target(folder, recipe, folder or eval_folder(run))


def eval_folder(name: str) -> Path:
    """Where the figures of what is no run go."""
    return RUNS / f"eval-{Path(name.replace(':', '-')).name}"
