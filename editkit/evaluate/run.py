"""Judging a finished run again, on its own test split or on another data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.evaluate.edits import Editor, evaluate_editor
from editkit.evaluate.report import write_report
from editkit.evaluate.scores import kinds_of
from editkit.evaluate.tradeoff import measure_tradeoff
from editkit.models.editor import load_editor
from editkit.models.locate import locate_model
from editkit.models.precision import choose_device, computing
from editkit.recipe.load import load_recipe
from editkit.recipe.schema import Evaluate
from editkit.runs import find_run

DEFAULT_PAIRS = 500
TRADEOFF = "tradeoff"  # a bench of its own: the run's test data over image guidance


def evaluate(run: str, *, bench: str | None = None, pairs: int | None = None) -> dict[str, Any]:
    """Scores the edits of a run.

    Args:
        run: a run, "latest", or a model ("lab:NAME", a folder, a Hub id), for which `bench` must name data.
        bench: a data spec or data-set folder whose test split is used; "tradeoff" = the run's own test data, once for every
            image guidance; None = the recipe's test data, with the recipe's guidance.
        pairs: how many pairs; None = as the recipe says.

    Returns:
        {"run", "data", "scores", "baselines", "settings"} with the figures of `scores` on the top level too; of the
        trade-off, "points" instead. What was measured on a run's own test data is written to its `evaluation/` and report.
    """
    device = choose_device()
    editor = load_editor(run, device=device)
    folder, options, data = _settings(run, editor)
    where = data if bench in (None, TRADEOFF) else bench
    if not where:
        raise UserError(
            f"{run}: found no recipe beside the weights that names test data; name some: --bench data_specs/NAME.toml"
        )
    options = options.model_copy(update={"pairs": pairs or options.pairs or DEFAULT_PAIRS})
    dataset = open_dataset(where, "test")
    if dataset.info["kind"] != "edit_pairs":
        raise UserError(f"{where}: found {dataset.info['kind']}; the scores compare with targets and need edit_pairs")
    own = folder if folder is not None and where == data else None
    target = own or Path("runs") / f"eval-{Path(run.replace(':', '-')).name}"
    measure = measure_tradeoff if bench == TRADEOFF else evaluate_editor
    with computing(device, "bf16"):
        measured = measure(editor, dataset, target, options)
    result: dict[str, Any] = {"run": run, "data": {"name": dataset.info["name"], "sha256": dataset.info["sha256"]}, **measured}
    if bench != TRADEOFF:
        (target / "evaluation" / "scores.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        result = {k: result["scores"][k] for k in kinds_of(result["scores"])} | result
    if own is not None:
        write_report(own)
    return result


def _settings(run: str, editor: Editor) -> tuple[Path | None, Evaluate, str]:
    """(run folder, evaluation settings, test data) of a run; a model that was shipped or published has its recipe beside it."""
    folder: Path | None = None
    try:
        folder = find_run(run)
        path = folder / "recipe.toml"
    except UserError:
        if run == "latest":
            raise
        path = locate_model(run) / "recipe.toml"
    if path.is_file():
        recipe, _ = load_recipe(path)
        return folder, recipe.evaluate, recipe.data.test or recipe.data.train
    defaults = {k: v for k, v in editor.defaults.items() if k in ("steps", "text_guidance", "image_guidance")}
    return None, Evaluate().model_copy(update=defaults), ""
