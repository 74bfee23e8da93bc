"""Evaluation sets kept out of training data: examples are recognised by what they are, not by the file that they came in.

Two examples are the same where their instructions are the same words and their sources look the same: 16 x 16 thumbnails, which
survive another format, another compression and another size. Pictures of the training data are read and decoded only where
the words are found in an evaluation set, so that the cost is that of reading the instructions once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from editkit.data.examples import AnyExample, CaptionedImage, Dataset
from editkit.data.pictures import Picture, PictureError
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.progress import progress

SIDE = 16  # px of a thumbnail
NEAR = 6.0  # mean difference of two thumbnails, of 255, up to which they show the same; JPEG of quality 50 moves it by about 1

_NO_WORD = re.compile(r"[\W_]+")


class KeptOut:
    """The examples of evaluation sets, by their words.

    Args:
        sets: evaluation sets by the name that messages give them.
    """

    def __init__(self, sets: Mapping[str, Dataset[Any]]) -> None:
        self._by_words: dict[str, list[tuple[str, str, np.ndarray]]] = {}
        for name, dataset in sets.items():
            for index in range(len(dataset)):
                self._add(name, dataset[index])

    def _add(self, name: str, example: AnyExample) -> None:
        if isinstance(example, CaptionedImage):
            return
        try:
            seen = thumbnail(example.source)
        except PictureError:
            return  # the doctor names it; what cannot be opened cannot be trained on either
        for text in example.instructions:
            if words := normalised(text):
                self._by_words.setdefault(words, []).append((name, example.key, seen))

    def knows(self, texts: Iterable[str]) -> bool:
        """Whether one of these instructions is that of an evaluation example."""
        return any(normalised(text) in self._by_words for text in texts)

    def find(self, example: AnyExample) -> tuple[str, str] | None:
        """The name and key of the evaluation example that this one is; None where it is none."""
        if isinstance(example, CaptionedImage):
            return None
        candidates = [c for words in {normalised(t) for t in example.instructions} for c in self._by_words.get(words, ())]
        if not candidates:
            return None
        try:
            seen = thumbnail(example.source)
        except PictureError:
            return None
        return next(((name, key) for name, key, other in candidates if difference(seen, other) <= NEAR), None)


def refuse_evaluation(training: Mapping[str, Dataset[Any]], kept_out: KeptOut) -> None:
    """Looks for evaluation examples in training data.

    Args:
        training: data sets by the name that the message gives them.
        kept_out: what must not be in them.

    Raises:
        UserError: one line that names the data set and the evaluation set.
    """
    for place, dataset in training.items():
        found = list(_search(dataset, kept_out))
        if found:
            sets = ", ".join(dict.fromkeys(name for _, name, _ in found))
            mine, _, theirs = found[0]
            raise UserError(
                f"{place}: found {len(found):,} of its {len(dataset):,} training examples in the evaluation set {sets} "
                f"({mine} is its {theirs}); expected none; leave them out, or take the set from data.keep_out"
            )


def _search(dataset: Dataset[Any], kept_out: KeptOut) -> Iterator[tuple[str, str, str]]:
    if dataset.info["kind"] != "edit_pairs":
        return
    texts = getattr(dataset, "texts", None)
    said = texts() if texts is not None else (dataset[i].instructions for i in range(len(dataset)))
    with progress(len(dataset), "comparing with the evaluation sets") as bar:
        for index, instructions in zip(range(len(dataset)), said, strict=False):  # the first ones of a larger set, perhaps
            if kept_out.knows(instructions) and (match := kept_out.find(dataset[index])) is not None:
                yield dataset[index].key, *match
            bar.advance()


def normalised(text: str) -> str:
    """The words of an instruction: one case, one form of each letter, no punctuation."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def thumbnail(picture: Picture) -> np.ndarray:
    """What a picture looks like from afar: (16, 16, 3), uint8."""
    image = picture.open().resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(image, np.uint8)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two thumbnails, in [0, 255]."""
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


def open_kept_out(places: Sequence[str]) -> KeptOut:
    """Opens evaluation sets and indexes them."""
    return KeptOut({place: open_dataset(place, "test") for place in places})
