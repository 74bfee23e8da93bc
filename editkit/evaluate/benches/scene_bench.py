"""GenEval in the lab: pictures of a model for prompts of the scenes world, judged by a trained scene reader.

The scorer, its thresholds and its files are GenEval's own (`editkit.evaluate.benches.geneval`); the prompts and the detector are
the lab's, so no figure here compares with a published one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from editkit.data.examples import CaptionedImage
from editkit.errors import UserError
from editkit.evaluate.benches.geneval import Detector, score_folder, write_prompt_folders, write_results, write_sample
from editkit.evaluate.benches.geneval_summary import summarise

AVATARS = "lab:judges"  # what a recipe that names no judge has
FOLDER, RESULTS = "geneval", "results.jsonl"

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


def asked_of(example: CaptionedImage) -> dict[str, Any]:
    """What its picture was drawn for, with GenEval's own words as `prompt`.

    Raises:
        UserError: the example is of another world.
    """
    line = example.facts.get("geneval", "")
    if not line:
        raise UserError(f"{example.key}: found no prompt of GenEval's; expected scenes, such as data_specs/scenes.toml")
    return json.loads(line)


def score_scenes(
    folder: Path, asked: Sequence[Asked], unseen: Sequence[bool], images: Sequence[Image.Image], detector: Detector
) -> tuple[dict[str, float], dict[str, float]]:
    """Judges one picture a prompt, and leaves the bench's own files behind.

    Args:
        folder: where `geneval/` is written; an earlier one is replaced.
        asked: the prompts.
        unseen: whether each asks for a composition that training never shows.
        images: one for each prompt.
        detector: what looks.

    Returns:
        "geneval" (the mean of the categories, in [0, 1]), "geneval_stderr", "geneval_seen" and "geneval_unseen" (where there
        are such prompts), "demands_met"; and the share of right pictures by category.
    """
    bench = folder / FOLDER
    shutil.rmtree(bench, ignore_errors=True)
    for samples, image in zip(write_prompt_folders(bench, asked), images, strict=True):
        write_sample(samples, 0, image)
    rows = score_folder(bench, detector)
    write_results(bench / RESULTS, rows)
    whole = summarise(rows)
    scores = {"geneval": whole["overall"], "geneval_stderr": whole["stderr"], "demands_met": whole["atoms"]}
    for name, wanted in (("geneval_seen", False), ("geneval_unseen", True)):
        some = [row for row, new in zip(rows, unseen, strict=True) if new == wanted]
        if some:
            scores[name] = summarise(some)["overall"]
    return scores, {tag: found["correct"] for tag, found in whole["tags"].items()}
