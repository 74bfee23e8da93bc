"""Judging a finished run again, on its own test split or on another data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.evaluate.edits import evaluate_editor
from editkit.models.editor import load_editor
from editkit.models.precision import choose_device, computing
from editkit.recipe.load import load_recipe
from editkit.recipe.schema import Evaluate
from editkit.runs import find_run

DEFAULT_PAIRS = 500


def evaluate(run: str, *, bench: str | None = None, pairs: int | None = None) -> dict[str, Any]:
    """Scores the edits of a run.

    Args:
        run: a run, "latest", or a model ("lab:NAME", a folder, a Hub id), for which `bench` must be given.
        bench: a data spec or data-set folder whose test split is used; None = the recipe's.
        pairs: how many pairs; None = as the recipe says.

    Returns:
        {"run", "data", "scores", "baselines", "settings"} with the figures of `scores` on the top level too. For a run's own
        test split it is also written to `evaluation/`.
    """
    editor = load_editor(run)
    folder, options, data = _settings(run)
    where = bench or data
    if not where:
        raise UserError(f"{run}: a model without a recipe has no test data; name some with --bench data_specs/NAME.toml")
    defaults = {k: v for k, v in editor.defaults.items() if k in ("steps", "text_guidance", "image_guidance")}
    options = options.model_copy(update={"pairs": pairs or options.pairs or DEFAULT_PAIRS, **(defaults if not folder else {})})
    dataset = open_dataset(where, "test")
    target = folder if folder is not None and bench is None else Path("runs") / f"eval-{Path(run.replace(':', '-')).name}"
    device = choose_device()
    with computing(device, "bf16"):
        result = evaluate_editor(editor, dataset, target, options)
    result: dict[str, Any] = {"run": run, "data": {"name": dataset.info["name"], "sha256": dataset.info["sha256"]}, **result}
    (target / "evaluation" / "scores.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    top = {k: result["scores"][k] for k in ("followed", "kept", "outside_l1", "n")}
    return {**top, **result}


def _settings(run: str) -> tuple[Path | None, Evaluate, str]:
    """(run folder, evaluation settings, test data) of a run; of a bare model nothing but defaults."""
    try:
        folder = find_run(run)
    except UserError:
        if run == "latest":
            raise
        return None, Evaluate(), ""
    recipe, _ = load_recipe(folder / "recipe.toml")
    return folder, recipe.evaluate, recipe.data.test or recipe.data.train
