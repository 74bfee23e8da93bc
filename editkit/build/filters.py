"""The stage "filter": CLIP says which pairs show the asked change on pictures that belong together.

The four similarities are those of InstructPix2Pix (section 3.1.2): source and target picture; each picture and its caption;
and the directional one, the cosine of the change between the pictures and the change between the captions (Gal et al. 2022).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import torch
from pydantic import Field

from editkit.build.rows import Row, image, parquet_schema
from editkit.data.pictures import Picture
from editkit.evaluate.judge import Encoder
from editkit.models.clip.load import load_clip
from editkit.models.locate import locate_model
from editkit.recipe.schema import PositiveInt, Section

VERSION = 1
SCORES = ("image", "direction", "source_caption", "target_caption")  # in the order in which they are asked
FILTERED = parquet_schema("edit_pairs", generated=True).append(pa.field("dropped", pa.string()))


class FilterOptions(Section):
    """The keys of `[build.filter]`; the thresholds are the paper's and belong to CLIP ViT-L/14.

    With `release` the pictures that were drawn are deleted part by part, as soon as they are filtered. The disk then holds the
    kept pairs and a few parts in the making, not all that was drawn; but other thresholds for a build that was stopped then
    mean drawing again, which is refused until asked for. It can be switched on at any time, also for what a stopped build has
    drawn, and the data set is the same.
    """

    clip: str  # "lab:tiny-clip", a folder or a Hub id
    image: float = 0.75  # least similarity of source and target; the paper's script has 0.7
    direction: float = 0.2  # least similarity of both changes
    source_caption: float = 0.2  # least similarity of the source and its caption
    target_caption: float = 0.2
    keep: PositiveInt = 4  # pairs of one prompt pair that are kept: those whose changes agree best
    release: Annotated[bool, Field(exclude=True)] = False  # excluded, for it is no part of what the rows depend on


@dataclass(frozen=True)
class FilterPairs:
    """Scores every rendered pair; what is dropped leaves its reason and its scores, and not its pictures."""

    options: FilterOptions
    licence: str
    clip_version: str
    name = "filter"
    processes = 0
    accelerated = False
    schema = FILTERED
    part_size = 0

    @property
    def releases(self) -> bool:
        return self.options.release

    def identity(self) -> Mapping[str, Any]:
        facts = {"version": VERSION, "licence": self.licence, "clip_sha256": self.clip_version}
        return {**facts, **self.options.model_dump()}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        torch.set_num_threads(1)  # the sums of more threads would round otherwise
        encoder = load_clip(locate_model(self.options.clip))
        return lambda rows: self._filter(encoder, rows)

    def _filter(self, encoder: Encoder, rows: Sequence[Row]) -> list[Row]:
        scores = score_pairs(encoder, rows)
        why = decide(rows, scores, self.options)
        return [self._row(*each) for each in zip(rows, scores, why, strict=True)]

    def _row(self, row: Row, scores: Mapping[str, float], dropped: str) -> Row:
        key = f"{row['key']}-{row['sample']:03d}"
        provenance = {
            "parent": row["parent"] or row["key"],
            "proposal": row["key"],
            "teacher": json.loads(row["teacher"]),
            "renderer": json.loads(row["renderer"]),
            "seed": row["seed"],
            "share": row["share"],
            "guidance": row["guidance"],
            "asked": json.loads(row["facts"]),
            "filter": {"clip": self.options.clip, "clip_sha256": self.clip_version, "version": VERSION},
            "scores": {name: round(score, 6) for name, score in scores.items()},
            "licence": self.licence,
        }
        return {
            "key": key,
            "source": None if dropped else image(row["source"]),
            "target": None if dropped else image(row["target"]),
            "mask": None,
            "instructions": row["instructions"],
            "category": row["category"],
            "source_caption": row["caption"],
            "target_caption": row["edited_caption"],
            # What the captions ask for is in the provenance; that the pictures show it is what nobody has checked.
            "source_facts": "{}",
            "target_facts": "{}",
            "licence": self.licence,
            "provenance": json.dumps(provenance),
            "dropped": dropped,
        }


def score_pairs(encoder: Encoder, rows: Sequence[Row]) -> list[dict[str, float]]:
    """The four similarities of every row of `RENDERS`, each in [-1, 1]."""
    texts = list(dict.fromkeys(t for row in rows for t in (row["caption"], row["edited_caption"])))
    at = {text: i for i, text in enumerate(texts)}
    said_TD = encoder.texts(texts)
    before_said = said_TD[[at[row["caption"]] for row in rows]]
    after_said = said_TD[[at[row["edited_caption"]] for row in rows]]
    before = encoder.images([Picture(data=row["source"]).open() for row in rows])
    after = encoder.images([Picture(data=row["target"]).open() for row in rows])
    columns = {
        "image": (before * after).sum(1),
        "direction": torch.cosine_similarity(after - before, after_said - before_said, dim=1),
        "source_caption": (before * before_said).sum(1),
        "target_caption": (after * after_said).sum(1),
    }
    return [dict(zip(columns, values, strict=True)) for values in torch.stack(list(columns.values()), 1).tolist()]


def decide(rows: Sequence[Row], scores: Sequence[Mapping[str, float]], options: FilterOptions) -> list[str]:
    """Why each row is dropped, "" for those that are kept.

    Args:
        rows: with "key", the prompt pair that they were drawn from.
        scores: of the rows.
        options: thresholds, and how many of a prompt pair are kept.
    """
    why = []
    for score in scores:
        low = [name for name in SCORES if not score[name] >= getattr(options, name)]
        why.append(f"low {low[0].replace('_', ' ')}" if low else "")
    passed: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if not why[i]:
            passed.setdefault(row["key"], []).append(i)
    for candidates in passed.values():
        best = sorted(candidates, key=lambda i: -scores[i]["direction"])
        for i in best[options.keep :]:
            why[i] = "others agree better"
    return why
