"""Looking at an editor: previews while it trains, the evaluation at the end, and its baselines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from editkit.data.examples import Dataset, EditPair
from editkit.data.prepare import PrepareParams, prepare
from editkit.evaluate.pictures import guidance_grid, triptych
from editkit.evaluate.scoring import Scoring, load_scoring
from editkit.recipe.schema import Evaluate

PREVIEW_PAIRS = 12


class Editor(Protocol):
    """What can be judged: see `editkit.models.editor.StableDiffusionEditor`."""

    name: str
    defaults: dict[str, Any]
    edit: Callable[..., list[Image.Image]]

    def reconstruct(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures through its VAE."""
        ...


def write_preview(editor: Editor, dataset: Dataset[EditPair], folder: Path, step: int, options: Evaluate) -> Mapping[str, Any]:
    """Writes the pictures of a step: rows of source, edit and target, and the guidance grid; scores `preview_pairs`.

    Returns:
        Scores and baselines for the "eval" line; {} when nothing is scored.
    """
    count = min(max(PREVIEW_PAIRS, options.preview_pairs), len(dataset))
    pairs = [dataset[i] for i in range(count)]
    outputs = run_editor(editor, pairs, options)
    size = editor.defaults["resolution"]
    shown = [
        (_square(p.source.open(), size), output, _square(p.target.open(), size), p.instructions[0])
        for p, output in zip(pairs[:PREVIEW_PAIRS], outputs, strict=False)
    ]
    triptych(shown, scale=_scale(size)).save(folder / f"step-{step:06d}.png")
    if options.text_grid and options.image_grid:
        _write_grid(editor, pairs, folder / f"step-{step:06d}-grid.png", options)
    if not options.preview_pairs:
        return {}
    scoring = load_scoring(options.judge)
    return {
        "scores": scoring.summarise(pairs, scoring.score(pairs, outputs)),
        "baselines": baselines(editor, pairs, scoring, options),
    }


def evaluate_editor(editor: Editor, dataset: Dataset[EditPair], run: Path, options: Evaluate) -> dict[str, Any]:
    """Scores `pairs` unseen edits with both baselines; writes `evaluation/` with every output."""
    pairs = [dataset[i] for i in range(min(options.pairs, len(dataset)))]
    scoring = load_scoring(options.judge)
    started = time.perf_counter()
    outputs = run_editor(editor, pairs, options)
    seconds = time.perf_counter() - started
    scores = scoring.score(pairs, outputs)
    about = [scoring.about(score) for score in scores]
    _write_examples(run / "evaluation", pairs, outputs, about, editor.defaults["resolution"])
    result = {
        "scores": {**scoring.summarise(pairs, scores), "seconds": round(seconds, 1)},
        "baselines": baselines(editor, pairs, scoring, options),
        "settings": {
            "steps": options.steps, "text_guidance": options.text_guidance, "image_guidance": options.image_guidance,
            "seed": options.seed, "judge": options.judge,
        },
    }  # fmt: skip
    return result


def run_editor(editor: Editor, pairs: Sequence[EditPair], options: Evaluate, **changes: Any) -> list[Image.Image]:
    """One output for every pair, for its first phrasing, with the recipe's settings."""
    settings = {
        "text_guidance": options.text_guidance, "image_guidance": options.image_guidance, "steps": options.steps,
        "seed": options.seed,
    } | changes  # fmt: skip
    return editor.edit([p.source.open() for p in pairs], [p.instructions[0] for p in pairs], **settings)


def baselines(editor: Editor, pairs: Sequence[EditPair], scoring: Scoring, options: Evaluate) -> dict[str, Any]:
    """What cheating would score: the source unchanged, and a picture drawn from the instruction alone.

    Where outputs are compared with targets, also what the VAE leaves of the target itself: no latent method comes further.
    """
    size = editor.defaults["resolution"]
    unchanged = [_square(p.source.open(), size) for p in pairs]
    text_only = run_editor(editor, pairs, options, image_guidance=1.0, source_weight=0.0)
    others = {"do_nothing": unchanged, "ignore_source": text_only}
    if scoring.ceiling:
        others["vae_ceiling"] = editor.reconstruct([p.target.open() for p in pairs])
    return {name: scoring.summarise(pairs, scoring.score(pairs, outputs)) for name, outputs in others.items()}


def _write_grid(editor: Editor, pairs: Sequence[EditPair], path: Path, options: Evaluate) -> None:
    pair = next((p for p in pairs if p.category not in ("", "keep")), pairs[0])
    source = pair.source.open()
    rows = []
    for image_guidance in options.image_grid:
        made = [
            editor.edit(
                [source], [pair.instructions[0]], text_guidance=text, image_guidance=image_guidance, steps=options.steps,
                seed=options.seed,
            )[0]
            for text in options.text_grid
        ]  # fmt: skip
        rows.append(made)
    size = editor.defaults["resolution"]
    grid = guidance_grid(
        rows, options.text_grid, options.image_grid, _square(source, size), pair.instructions[0], scale=_scale(size)
    )
    grid.save(path)


def _write_examples(
    folder: Path, pairs: Sequence[EditPair], outputs: Sequence[Image.Image], about: Sequence[Mapping[str, Any]], size: int
) -> None:
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    with (folder / "examples.jsonl").open("w", encoding="utf-8") as file:
        for pair, output, score in zip(pairs, outputs, about, strict=True):
            pictures = {
                "source": _square(pair.source.open(), size),
                "edit": output,
                "target": _square(pair.target.open(), size),
            }
            names = {}
            for role, picture in pictures.items():
                names[role] = f"images/{pair.key}-{role}.png"
                picture.save(folder / names[role])
            line = {
                "key": pair.key,
                "category": pair.category,
                "instruction": pair.instructions[0],
                **score,
                **names,
            }
            file.write(json.dumps(line) + "\n")


def _square(image: Image.Image, size: int) -> Image.Image:
    pixels = prepare([image], PrepareParams(size))[0]
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _scale(size: int) -> int:
    """Enlargement of small pictures to about 128 px."""
    return max(1, 128 // size)
