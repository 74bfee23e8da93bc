"""Run folders as the training leaves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from editkit.models import METADATA
from editkit.recipe.load import dump
from editkit.recipe.schema import Adapter, Data, Method, Model, Optim, Recipe, Train
from tests.tiny import picture

SAMPLING = {"steps": 2, "text_guidance": 3.0, "image_guidance": 1.5}


def make_run(
    folder: Path,
    model: Path | None,
    *,
    evaluated: bool = True,
    base: str = "lab:tiny-sd",
    facts: dict[str, Any] | None = None,
    adapter: Adapter | None = None,
) -> Path:
    """A finished run; without `model` its weights are still to be put there, and `facts` change run.json."""
    folder.mkdir(parents=True)
    if model is not None:
        shutil.copytree(model, folder / "model")
        write_metadata(folder / "model", base)
    recipe = Recipe(
        name="small",
        method=Method(name="instruct_edit"),
        model=Model(family="stable_diffusion", base=base),
        data=Data(train="data_specs/small.toml", resolution=32),
        optim=Optim(lr=1e-3),
        train=Train(steps=6, batch_size=8),
        adapter=adapter,
    )
    (folder / "recipe.toml").write_text(dump(recipe))
    said = {
        "format": 1, "name": "small", "recipe_sha256": "fed", "method": "instruct_edit", "base": base, "seed": 0,
        "trained_parameters": 1000, "steps": 6, "samples": 48, "seconds": 61.0, "started": "2026-01-01T10:00:00+00:00",
        "finished": "2026-01-01T10:02:00+00:00", "state": "done",
        "data": {
            "name": "small", "kind": "edit_pairs", "sha256": "abc", "counts": {"train": 12, "test": 4}, "skipped": 2,
            "licences": {"CC BY 4.0": {"count": 16, "credit": "An Artist |\nof pictures"}},
            "categories": {"train": {"add": 7, "colour": 5}},
        },
        "versions": {"editkit": "0.1.0", "torch": "2.13.0"},
        "machine": {"name": "a CPU", "device": "cpu", "threads": 2},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(said | (facts or {})))
    if evaluated:
        write_evaluation(folder / "evaluation")
    return folder


def write_metadata(weights: Path, base: str) -> None:
    facts = {"format": 1, "method": "instruct_edit", "base": base, "prepare": {"resolution": 32, "crop": "center"}}
    (weights / METADATA).write_text(json.dumps(facts | {"sampling": SAMPLING}))


def write_evaluation(folder: Path) -> None:
    row = {
        "followed": 0.815, "kept": 0.96, "outside_l1": 0.02, "outside_psnr": 30.0, "clip_direction": 0.4, "clip_image": 0.9,
        "n": 500,
    }  # fmt: skip
    kinds = {
        "add": {"followed": 0.7, "kept": 0.95, "outside_l1": 0.03, "n": 200},
        "colour": {"followed": 0.9, "kept": 0.97, "outside_l1": 0.01, "n": 200},
        "keep": {"followed": None, "kept": 0.99, "outside_l1": 0.01, "n": 100},
    }
    scores = {
        "scores": row | {"by_category": kinds, "by_attribute": {}, "seconds": 9.0},
        "baselines": {"do_nothing": row | {"followed": 0.01}, "ignore_source": row | {"kept": 0.3}},
        "settings": {**SAMPLING, "judge": "lab:judges", "seed": 0},
    }
    (folder / "images").mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(scores))
    for role, colour in (("source", "red"), ("edit", "green"), ("target", "blue")):
        picture(colour).save(folder / "images" / f"a-{role}.png")
    example = {"instruction": 'make the "hair" red', **{r: f"images/a-{r}.png" for r in ("source", "edit", "target")}}
    (folder / "examples.jsonl").write_text(json.dumps(example) + "\n")
