"""GenEval in the lab: pictures of a model for prompts of the scenes world, judged by a trained scene reader.

The scorer, its thresholds and its files are GenEval's own (`editkit.evaluate.benches.geneval`); the prompts and the detector
are the lab's, so no figure here compares with a published one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.benches.geneval import Detector, score_folder, write_prompt_folders, write_results, write_sample
from editkit.evaluate.benches.geneval_summary import Rows, summarise
from editkit.lab.scene_prompts import TAGS, prompts, unseen_in

AVATARS = "lab:judges"  # what a recipe that names no judge has
NO_DETECTORS = ("", AVATARS, "target")  # in a recipe's evaluate.judge: what cannot look for objects
FOLDER, RESULTS = "geneval", "results.jsonl"
MULTI = "multi"  # the category that is ours
SEED = 0  # of the prompts

Asked = Mapping[str, Any]  # a line of GenEval's prompt file


def load_scene_judge(name: str) -> Detector | None:
    """The detector that a recipe names in `evaluate.judge`; None for "", where there is none yet.

    Args:
        name: "lab:judges/scene_reader", a run of the method scene_reader, or its folder.

    Raises:
        UserError: there is none of that name, or it reads something else.
    """
    if not name:
        return None
    if name == AVATARS:
        raise UserError(
            f'evaluate.judge: found "{name}", which reads avatars; expected "lab:judges/scene_reader", a run of the method '
            'scene_reader, or "" for losses alone'
        )
    from editkit.evaluate.benches.scene_reader import SceneReaderDetector

    return SceneReaderDetector(name)


def bench_prompts(count: int) -> list[dict[str, Any]]:
    """The lab's prompt file: at least `count` prompts of the test split, as many of each category; the same for every model.

    A category of few prompts (there are 24 single objects) may give fewer.
    """
    return [asked for _, asked in prompts(SEED, "test", -(-count // len(TAGS)))]


def score_scenes(
    folder: Path, asked: Sequence[Asked], images: Sequence[Image.Image], detector: Detector
) -> tuple[dict[str, float], dict[str, float]]:
    """Judges one picture a prompt, and leaves the bench's own files behind.

    Args:
        folder: where `geneval/` is written; an earlier one is replaced.
        asked: the prompts.
        images: one for each prompt.
        detector: what looks.

    Returns:
        "geneval" (the mean of GenEval's six categories, in [0, 1]), "geneval_stderr", "geneval_seen" and "geneval_unseen" (of
        the prompts without and with a composition that training never shows), "multi" (prompts of three to five objects),
        "demands_met" (of all prompts); and the share of right pictures by category.
    """
    bench = folder / FOLDER
    shutil.rmtree(bench, ignore_errors=True)
    for samples, image in zip(write_prompt_folders(bench, asked), images, strict=True):
        write_sample(samples, 0, image)
    rows = score_folder(bench, detector)
    write_results(bench / RESULTS, rows)
    whole = summarise(rows)
    by_category = {tag: found["correct"] for tag, found in whole["tags"].items()}
    scores = {"demands_met": whole["atoms"]} | ({MULTI: by_category[MULTI]} if MULTI in by_category else {})
    if official := official_rows(rows):
        summary = summarise(official)
        scores |= {"geneval": summary["overall"], "geneval_stderr": summary["stderr"]}
    for name, some in by_composition(official).items():
        scores[f"geneval_{name}"] = summarise(some)["overall"]
    return {name: value for name, value in scores.items() if value == value}, by_category


def official_rows(rows: Rows) -> list[Mapping[str, Any]]:
    """The results in GenEval's own categories, of which its overall figure is the mean."""
    return [row for row in rows if row["tag"] != MULTI]


def by_composition(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The results on prompts without ("seen") and with ("unseen") a composition that training never shows."""
    found: dict[str, list[Mapping[str, Any]]] = {"seen": [], "unseen": []}
    for row in rows:
        found["unseen" if unseen_in(json.loads(row["metadata"])) else "seen"].append(row)
    return {name: those for name, those in found.items() if those}
