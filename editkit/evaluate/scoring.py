"""How edits are scored, by the name that a recipe gives in `evaluate.judge`.

"lab:judges" reads attributes, where a world knows what is true: followed and kept. "target" compares with the target pixel by
pixel, where there is one right answer, as in restoration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

from editkit.data.examples import EditPair
from editkit.evaluate.judge import EditScore, Judge, load_judge, score_edits, share, summarise

TARGET = "target"


class Scoring(Protocol):
    """From outputs to figures. `score` and `about` agree on what a score is; nobody else looks into one."""

    ceiling: bool  # whether the VAE's own reconstruction of the targets says how far a latent method can come

    def score(self, pairs: Sequence[EditPair], outputs: Sequence[Image.Image]) -> list[Any]:
        """One score for every output."""
        ...

    def about(self, score: Any) -> Mapping[str, Any]:
        """What `evaluation/examples.jsonl` says of an example."""
        ...

    def summarise(self, pairs: Sequence[EditPair], scores: Sequence[Any]) -> dict[str, Any]:
        """The figures of all, and "by_category"."""
        ...


class AttributeScoring:
    """Followed and kept, as a judge reads them."""

    ceiling = False

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def score(self, pairs: Sequence[EditPair], outputs: Sequence[Image.Image]) -> list[EditScore]:
        """See `Scoring`."""
        return score_edits(self._judge, pairs, outputs)

    def about(self, score: EditScore) -> Mapping[str, Any]:
        """See `Scoring`."""
        return {
            "followed": share(score.asked.values()),
            "kept": share(score.rest.values()),
            "outside_l1": score.outside_l1 if score.outside_l1 == score.outside_l1 else None,
            "wrong": list(score.wrong),
        }

    def summarise(self, pairs: Sequence[EditPair], scores: Sequence[EditScore]) -> dict[str, Any]:
        """See `Scoring`."""
        return summarise(pairs, scores)


def load_scoring(name: str) -> Scoring:
    """What a recipe names in `evaluate.judge`."""
    if name == TARGET:
        from editkit.evaluate.fidelity import TargetScoring

        return TargetScoring()
    return AttributeScoring(load_judge(name))
