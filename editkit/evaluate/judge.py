"""Scoring edits: did the model do what was asked (followed), and did it leave the rest alone (kept).

Both are computed on the same outputs and always reported as a pair, beside two baselines that expose cheating: *do nothing*
returns the source, *ignore the source* draws from the instruction alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from editkit.data.examples import CaptionedImage, EditPair
from editkit.data.prepare import PrepareParams, prepare
from editkit.errors import UserError
from editkit.evaluate.metrics import as_unit


class Encoder(Protocol):
    """Pictures and texts as unit vectors in one space: ours, or a real CLIP."""

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor: ...

    def texts(self, texts: Sequence[str]) -> torch.Tensor: ...


class Judge(Protocol):
    """What scores outputs."""

    @property
    def clip(self) -> Encoder: ...

    def read(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """Attribute -> word, for every picture."""
        ...


def load_judge(name: str) -> Judge:
    """The judge that a recipe names."""
    if not name.startswith("lab:"):
        raise UserError(f'evaluate.judge: found "{name}"; expected "lab:judges", or "target" for edits with a right answer')
    from editkit.lab.judges import LabJudge

    return LabJudge(name)


@dataclass(frozen=True, slots=True)
class EditScore:
    """What the judge says of one output.

    Attributes:
        asked: attribute -> whether it is now as the instruction asked.
        rest: attribute -> whether it is still as it was.
        wrong: what is not right, in words.
        outside_l1: mean absolute difference to the source outside the mask, in [0, 1]; NaN without a mask.
        outside_mse: mean squared difference there.
        clip_direction: cosine of the change of the picture and the change of the caption; NaN where nothing was asked.
        clip_image: cosine of source and output.
    """

    asked: Mapping[str, bool]
    rest: Mapping[str, bool]
    wrong: tuple[str, ...]
    outside_l1: float
    outside_mse: float
    clip_direction: float
    clip_image: float


def score_edits(judge: Judge, pairs: Sequence[EditPair], outputs: Sequence[Image.Image]) -> list[EditScore]:
    """Scores one output for every pair."""
    sources = [_as_output(p.source.open(), o) for p, o in zip(pairs, outputs, strict=True)]
    readings = judge.read(outputs)
    directions, similarities = _clip_scores(judge.clip, pairs, sources, outputs)
    scores = []
    for i, (pair, output, reading) in enumerate(zip(pairs, outputs, readings, strict=True)):
        asked_for, unchanged = edited_attributes(pair)
        _check_reads(reading, (*asked_for, *unchanged))
        asked = {n: reading[n] == v for n, v in asked_for.items()}
        rest = {n: reading[n] == v for n, v in unchanged.items()}
        wrong = [f"{n}: {reading[n]} instead of {asked_for[n]}" for n, right in asked.items() if not right]
        wrong += [f"{n} became {reading[n]}" for n, right in rest.items() if not right]
        l1, mse = outside_error(pair, sources[i], output)
        scores.append(EditScore(asked, rest, tuple(wrong), l1, mse, directions[i], similarities[i]))
    return scores


def _check_reads(reading: Mapping[str, str], facts: Iterable[str]) -> None:
    """Raises UserError where the data know of something that the judge does not read: they are of another world."""
    unread = [name for name in facts if name not in reading]
    if unread:
        raise UserError(
            f'found the fact "{unread[0]}" in the data, which evaluate.judge does not read; expected data of its own world, '
            'or, for edits, evaluate.judge = "target"'
        )


def edited_attributes(pair: EditPair) -> tuple[dict[str, str], dict[str, str]]:
    """(attributes that change, with the new word; attributes that stay), among those that both pictures show.

    What an edit uncovers, such as the eyes behind glasses, was neither asked for nor there before, and is in neither.
    """
    both = [n for n in pair.target_facts if n in pair.source_facts]
    changed = {n: pair.target_facts[n] for n in both if pair.target_facts[n] != pair.source_facts[n]}
    return changed, {n: pair.target_facts[n] for n in both if n not in changed}


def outside_error(pair: EditPair, source: Image.Image, output: Image.Image) -> tuple[float, float]:
    """(L1, MSE) between output and source where the mask says that nothing should change; NaN without a mask."""
    if pair.mask is None:
        return float("nan"), float("nan")
    mask = _as_output(pair.mask.open(), output)
    outside_HW = np.asarray(mask.convert("L")) == 0
    if not outside_HW.any():
        return float("nan"), float("nan")
    difference = as_unit(output)[outside_HW] - as_unit(source)[outside_HW]
    return float(np.abs(difference).mean()), float((difference**2).mean())


def _as_output(image: Image.Image, output: Image.Image) -> Image.Image:
    """The picture through the preprocessing path, so that it lies on the output pixel for pixel."""
    if image.size == output.size:
        return image
    pixels = prepare([image], PrepareParams(output.width))[0]
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _clip_scores(
    clip: Encoder, pairs: Sequence[EditPair], sources: Sequence[Image.Image], outputs: Sequence[Image.Image]
) -> tuple[list[float], list[float]]:
    before, after = clip.images(sources), clip.images(outputs)
    similar = (before * after).sum(1).tolist()
    if not all(p.source_caption and p.target_caption for p in pairs):
        return [float("nan")] * len(pairs), similar
    change = clip.texts([p.target_caption for p in pairs]) - clip.texts([p.source_caption for p in pairs])
    direction = torch.cosine_similarity(after - before, change, dim=1)
    asked = [p.source_caption != p.target_caption for p in pairs]
    return [d if a else float("nan") for d, a in zip(direction.tolist(), asked, strict=True)], similar


def summarise(pairs: Sequence[EditPair], scores: Sequence[EditScore]) -> dict[str, Any]:
    """The figures of a whole evaluation, and by kind of edit and by attribute."""
    categories = sorted({p.category for p in pairs})
    by_category = {}
    for category in categories:
        chosen = [s for p, s in zip(pairs, scores, strict=True) if p.category == category]
        by_category[category] = {k: v for k, v in _figures(chosen).items() if k in ("followed", "kept", "outside_l1", "n")}
    attributes = sorted({n for s in scores for n in s.asked})
    by_attribute = {
        name: {
            "followed": share(s.asked[name] for s in scores if name in s.asked),
            "n": sum(name in s.asked for s in scores),
        }
        for name in attributes
    }
    return {**_figures(scores), "by_category": by_category, "by_attribute": by_attribute}


def _figures(scores: Sequence[EditScore]) -> dict[str, Any]:
    mse = [s.outside_mse for s in scores]
    return {
        "followed": share(right for s in scores for right in s.asked.values()),
        "kept": share(right for s in scores for right in s.rest.values()),
        "outside_l1": _mean(s.outside_l1 for s in scores),
        "outside_psnr": _mean(-10 * np.log10(max(m, 1e-10)) for m in mse if m == m),
        "clip_direction": _mean(s.clip_direction for s in scores),
        "clip_image": _mean(s.clip_image for s in scores),
        "n": len(scores),
    }


def share(values: Iterable[bool]) -> float | None:
    """How many of them are true; None of none."""
    found = list(values)
    return sum(found) / len(found) if found else None


def _mean(values: Iterable[float]) -> float | None:
    found = [v for v in values if v == v]
    return float(sum(found) / len(found)) if found else None


def score_captions(judge: Judge, examples: Sequence[CaptionedImage], outputs: Sequence[Image.Image]) -> dict[str, Any]:
    """How much of what the captions say the outputs show: the share of attributes read as asked, and CLIP's similarity."""
    right: dict[str, list[bool]] = {}
    for example, reading in zip(examples, judge.read(outputs), strict=True):
        _check_reads(reading, example.facts)
        for name, truth in example.facts.items():
            right.setdefault(name, []).append(reading[name] == truth)
    similarity = (judge.clip.images(outputs) * judge.clip.texts([e.captions[0] for e in examples])).sum(1)
    every = [value for values in right.values() for value in values]
    return {
        "attributes": share(every),
        "clip_text": similarity.mean().item(),
        "n": len(examples),
        "by_attribute": {name: share(values) for name, values in sorted(right.items())},
    }
