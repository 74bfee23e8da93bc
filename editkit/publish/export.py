"""What of a finished run goes out: its weights, the recipe, and pictures of what it does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.pictures import triptych
from editkit.models import METADATA
from editkit.recipe.load import load_recipe
from editkit.recipe.schema import Recipe
from editkit.runs import find_run

SAMPLES = 6
SAMPLES_FILE = "samples.png"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run folder, read once.

    Attributes:
        folder: the run folder.
        weights: its `adapter/` or `model/`.
        pipeline: the class of the stock pipeline in `model/`; "" = the weights are an adapter.
        recipe: the resolved recipe.
        facts: `run.json`.
        metadata: `editkit.json` beside the weights: base, preprocessing, default guidance.
        evaluation: `evaluation/scores.json`; None = it was not evaluated.
        examples: the first lines of `evaluation/examples.jsonl`, with paths relative to `evaluation/`.
    """

    folder: Path
    weights: Path
    pipeline: str
    recipe: Recipe
    facts: Mapping[str, Any]
    metadata: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    examples: list[dict[str, Any]]


def read_run(name: str) -> FinishedRun:
    """Reads a run that has weights to publish.

    Args:
        name: a run folder, its name, or "latest".

    Raises:
        UserError: there is no such run, it has no weights yet, or they are not what diffusers loads.
    """
    folder = find_run(name)
    weights = next((folder / n for n in ("adapter", "model") if (folder / n).is_dir()), None)
    if weights is None:
        raise UserError(
            f"{folder}: found neither model/ nor adapter/; the run has not come to its end, so there is nothing to publish"
        )
    pipeline = ""
    if weights.name == "model":
        if not (weights / "model_index.json").is_file():
            raise UserError(
                f"{weights}: found no model_index.json, so diffusers cannot load it by itself; expected the run of an "
                "editor or of a text-to-image model"
            )
        pipeline = _read(weights / "model_index.json")["_class_name"]
    if not (weights / METADATA).is_file():
        raise UserError(
            f"{weights}: found no {METADATA}; the run was cut off while it was saved, so go on with "
            f'"editkit train {folder / "recipe.toml"} --resume {folder}"'
        )
    scores, examples = folder / "evaluation" / "scores.json", folder / "evaluation" / "examples.jsonl"
    lines = examples.read_text(encoding="utf-8").splitlines()[:SAMPLES] if examples.is_file() else []
    return FinishedRun(
        folder=folder,
        weights=weights,
        pipeline=pipeline,
        recipe=load_recipe(folder / "recipe.toml")[0],
        facts=_read(folder / "run.json"),
        metadata=_read(weights / METADATA),
        evaluation=_read(scores) if scores.is_file() else None,
        examples=[json.loads(line) for line in lines],
    )


def stage_files(run: FinishedRun, staging: Path) -> None:
    """Puts weights with their metadata, recipe and sample pictures into `staging`, which must not exist yet."""
    shutil.copytree(run.weights, staging)
    shutil.copy(run.folder / "recipe.toml", staging / "recipe.toml")
    if run.examples:
        _sample_sheet(run).save(staging / SAMPLES_FILE)
    elif previews := sorted(p for p in (run.folder / "previews").glob("step-*.png") if not p.stem.endswith("-grid")):
        shutil.copy(previews[-1], staging / SAMPLES_FILE)


def _sample_sheet(run: FinishedRun) -> Image.Image:
    """The first test cases, chosen by nothing but their order."""
    rows = []
    for line in run.examples:
        source, edit, target = (_picture(run.folder / "evaluation" / line[role]) for role in ("source", "edit", "target"))
        rows.append((source, edit, target, line["instruction"]))
    return triptych(rows, scale=max(1, 128 // rows[0][0].width))


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
