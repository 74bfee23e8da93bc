"""The lab's grammar as a teacher: captions of avatars, edits of them, and the instructions that ask for these."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from editkit.build.rows import Row
from editkit.build.teachers.protocol import key_of
from editkit.lab.avatar_edits import NUM_PHRASINGS, phrase, sample_category, sample_pair
from editkit.lab.avatar_words import HELD_OUT, IN_TRAINING, caption, in_good_grammar

VERSION = 1


@dataclass(frozen=True)
class GrammarTeacher:
    """Pure functions of (seed, split, index), as the avatars world is; "keep" is no edit and is not proposed."""

    seed: int
    processes = 0
    accelerated = False

    def identity(self) -> Mapping[str, Any]:
        return {"name": "grammar of avatars", "version": VERSION, "seed": self.seed}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return lambda rows: [self._propose(row) for row in rows]

    def _propose(self, row: Row) -> Row:
        rng = Random(f"generated_edits/{self.seed}/{row['split']}/{row['index']}")
        category = "keep"
        while category == "keep":
            category = sample_category(rng)
        source, target, _, edits = sample_pair(rng, row["split"], category)
        phrasings = HELD_OUT if row["split"] == "test" else IN_TRAINING
        texts = [in_good_grammar(phrase(rng, source, edits, phrasings)) for _ in range(NUM_PHRASINGS)]
        return {
            "key": key_of(row),
            "parent": "",
            "caption": caption(source),
            "edited_caption": caption(target),
            "instructions": list(dict.fromkeys(texts)),
            "category": category,
            "facts": json.dumps({"source": source.facts, "target": target.facts}),
            "teacher": json.dumps(self.identity()),
            "dropped": "",
        }
