"""Judging a finished run again: its edits, on its own test split or on another data set; or what it draws, on a bench."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.evaluate.benches import BENCHES, BenchOptions, print_bench, run_bench
from editkit.evaluate.edits import Editor, evaluate_editor
from editkit.evaluate.report import write_report
from editkit.evaluate.scores import kinds_of, print_scores
from editkit.evaluate.target import Target, eval_folder, find_target
from editkit.evaluate.tradeoff import measure_tradeoff
from editkit.models.editor import load_editor
from editkit.models.precision import choose_device, computing, has_bf16
from editkit.recipe.schema import Evaluate

DEFAULT_PAIRS = 500
TRADEOFF = "tradeoff"  # a bench of its own: the run's test data over image guidance


def evaluate(
    run: str, *, bench: str | None = None, pairs: int | None = None, options: BenchOptions | None = None
) -> dict[str, Any]:
    """Scores what a run edits or, on a bench of `editkit.evaluate.benches.BENCHES`, draws.

    Args:
        run, pairs: see `evaluate_edits`; on a bench, `pairs` is the number of the lab's own prompts.
        bench: of either kind; a file or folder of such a name is written ./NAME.
        options: of a bench; None = its own.

    Returns:
        See `evaluate_edits`, and the bench.
    """
    _check_numbers(pairs, options)
    if bench in BENCHES:
        return run_bench(bench, run, replace(options or BenchOptions(), pairs=pairs or 0))
    given = [f"--{f.name}" for f in fields(BenchOptions) if options is not None and getattr(options, f.name)]
    if given:
        raise UserError(f"{given[0]}: found it without a bench that draws; expected --bench {' or '.join(BENCHES)}")
    return evaluate_edits(run, bench=bench, pairs=pairs)


def print_evaluation(result: Mapping[str, Any]) -> None:
    """The figures for people."""
    (print_bench if "bench" in result else print_scores)(result)


def evaluate_edits(run: str, *, bench: str | None = None, pairs: int | None = None) -> dict[str, Any]:
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
    judged = find_target(run)
    options, data = _settings(judged, editor)
    where = data if bench in (None, TRADEOFF) else bench
    if not where:
        raise UserError(
            f"{run}: found no recipe beside the weights that names test data; name some: --bench data_specs/NAME.toml"
        )
    options = options.model_copy(update={"pairs": pairs or options.pairs or DEFAULT_PAIRS})
    dataset = open_dataset(where, "test")
    if dataset.info["kind"] != "edit_pairs":
        raise UserError(f"{where}: found {dataset.info['kind']}; the scores compare with targets and need edit_pairs")
    own = judged.run if where == data else None
    target = own or eval_folder(run)
    measure = measure_tradeoff if bench == TRADEOFF else evaluate_editor
    with computing(device, "bf16" if has_bf16(device) else "fp32"):
        measured = measure(editor, dataset, target, options)
    result: dict[str, Any] = {"run": run, "data": {"name": dataset.info["name"], "sha256": dataset.info["sha256"]}, **measured}
    if bench != TRADEOFF:
        (target / "evaluation" / "scores.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        result = {k: result["scores"][k] for k in kinds_of(result["scores"])} | result
    if own is not None:
        write_report(own)
    return result


def _check_numbers(pairs: int | None, options: BenchOptions | None) -> None:
    for name, value in (("--pairs", pairs), ("--samples", options.samples if options is not None else None)):
        if value is not None and value < 0:
            raise UserError(f"{name}: found {value}; expected a whole number from 1")


def _settings(target: Target, editor: Editor) -> tuple[Evaluate, str]:
    """(evaluation settings, test data); a model that was shipped or published has its recipe beside it."""
    if target.recipe is not None:
        return target.recipe.evaluate, target.recipe.data.test or target.recipe.data.train
    defaults = {k: v for k, v in editor.defaults.items() if k in ("steps", "text_guidance", "image_guidance")}
    return Evaluate().model_copy(update=defaults), ""
