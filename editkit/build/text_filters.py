"""What is thrown away before a picture is drawn: the text filters of InstructPix2Pix (its dataset_creation, section 3.1.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from editkit.build.rows import Row
from editkit.build.stages import DROPPED
from editkit.build.teachers.protocol import PROPOSALS


@dataclass(frozen=True)
class SelectTexts:
    """Drops proposals that are empty, whose edited caption says the same, or whose caption came before."""

    name = "select"
    schema = PROPOSALS
    part_size: int  # proposals that are rendered as one part

    def identity(self) -> Mapping[str, Any]:
        return {"version": 1, "part_size": self.part_size}

    def gather(self, rows: Iterator[Row]) -> Iterator[Row]:
        seen: set[bytes] = set()  # 16 bytes a caption; two different ones meet with probability 1e-24 among 10^7
        for row in rows:
            yield {**row, DROPPED: self._reason(row, seen)}

    @staticmethod
    def _reason(row: Row, seen: set[bytes]) -> str:
        before, after = plain(row["caption"]), plain(row["edited_caption"])
        if not before or not after or not any(plain(text) for text in row["instructions"]):
            return "empty"
        if before == after:
            return "same caption"
        digest = hashlib.blake2b(before.encode(), digest_size=16).digest()
        if digest in seen:
            return "duplicate caption"
        seen.add(digest)
        return ""


def plain(text: str) -> str:
    """A text as the filters compare it: lower case, without the marks that end a sentence."""
    return text.lower().translate(str.maketrans("", "", ".!?")).strip()
