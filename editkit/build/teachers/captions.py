"""The captions that a teacher is given: a line of a text file each, or of captioned pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editkit.build.rows import Row
from editkit.build.teachers.protocol import key_of
from editkit.data.read import open_dataset
from editkit.errors import UserError

NO_REPLY = "no usable reply"  # why a caption's row goes no further


@dataclass(frozen=True)
class Captions:
    """Where they are.

    Attributes:
        place: a text file with a caption a line, or a data set of captioned pictures.
        sha256: of the file, or of the data set's splits.
        starts: split -> its first line in a text file.
    """

    place: str
    sha256: str
    starts: Mapping[str, int]

    @classmethod
    def of(cls, place: str, counts: Mapping[str, int]) -> Captions:
        """Looks whether they are there and enough for so many examples of each split.

        Raises:
            UserError: they are not.
        """
        starts = {split: sum(list(counts.values())[:i]) for i, split in enumerate(counts)}
        path = Path(place)
        if path.suffix == ".txt":
            found = len(_lines(path))
            if found < sum(counts.values()):
                raise UserError(
                    f"{path}: found {found} captions; expected {sum(counts.values())}, the sum of [build] train and test"
                )
            return cls(place, hashlib.sha256(path.read_bytes()).hexdigest(), starts)
        digests = []
        for split, count in counts.items():
            if not count:
                continue
            dataset = open_dataset(place, split)
            if len(dataset) < count:
                raise UserError(f'{place}: found {len(dataset)} examples of "{split}"; [build] asks for {count}')
            if not hasattr(dataset[0], "captions"):
                raise UserError(f"{place}: found edit pairs; expected captioned pictures or a text file of captions")
            digests.append(str(dataset.info.get("sha256", "")))
        return cls(place, "+".join(dict.fromkeys(digests)), starts)

    def reader(self) -> Callable[[Row], tuple[str, str]]:
        """From a row {"split", "index"} to (key of what the caption belongs to, caption)."""
        path = Path(self.place)
        if path.suffix == ".txt":
            lines = _lines(path)
            numbered = [(f"line {number}", line) for number, line in enumerate(lines, 1)]
            return lambda row: numbered[self.starts[row["split"]] + row["index"]]
        opened: dict[str, Any] = {}

        def read(row: Row) -> tuple[str, str]:
            if row["split"] not in opened:
                opened[row["split"]] = open_dataset(self.place, row["split"])
            example = opened[row["split"]][row["index"]]
            return example.key, example.captions[0]

        return read


def proposal(row: Row, parent: str, caption: str, answer: Mapping[str, str] | None, teacher: Mapping[str, Any]) -> Row:
    """A row of `PROPOSALS`.

    Args:
        row: that was asked for, {"split", "index"}.
        parent: key of what the caption belongs to.
        caption: of the picture before the edit.
        answer: {"instruction", "edited_caption"}; None = there was none that can be used.
        teacher: its identity, and what is known of this reply.
    """
    said = answer or {"instruction": "", "edited_caption": ""}
    return {
        "key": key_of(row),
        "parent": parent,
        "caption": caption,
        "edited_caption": said["edited_caption"].strip(),
        "instructions": [said["instruction"].strip()],
        "category": "",
        "facts": json.dumps({}),
        "teacher": json.dumps(dict(teacher)),
        "dropped": "" if answer else NO_REPLY,
    }


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"[build.propose] captions: {path} cannot be read ({error}); expected a text file, a caption a line"
        ) from error
