"""What the doctor may find: the kinds, how bad each is, and what to do about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from editkit.files import write_whole

Severity = Literal["error", "warning", "note"]
Figure = float | int | str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: of most of its findings; one finding may be milder. "error" makes `editkit check` leave with 1.
        meaning: one sentence.
        advice: what to do about it.
        repair: what `[fix] repair` does; "" = it can only be dropped.
    """

    severity: Severity
    meaning: str
    advice: str
    repair: str = ""


KINDS: dict[str, Kind] = {
    "orphan": Kind("error", "Source or target is missing, or nothing uses the file.", "Add what is missing, or drop it."),
    "unreadable": Kind("error", "A picture cannot be opened.", "Fetch it again, or drop the pair."),
    "swapped": Kind(
        "error",
        "The pictures change against what the texts ask for: source and target are probably exchanged.",
        "Look at them, then exchange the two.",
        "source and target are exchanged",
    ),
    "identical pair": Kind("error", "Source and target are the same picture.", "Drop it, or call its category keep."),
    "nearly identical pair": Kind(
        "warning", "Source and target differ by no more than a new encoding does.", "Drop it, or call its category keep."
    ),
    "split leak": Kind("error", "The training split has a picture of the test split.", "Drop it from one of them."),
    "leak": Kind("error", "A picture of an evaluation set is in this data.", "Drop it, or scores on that set mean nothing."),
    "duplicate": Kind("note", "The split has this pair twice, with the same instruction.", "Drop all but one."),
    "shift": Kind("error", "The target is moved as a whole: a model learns to move what it should keep.", "Align or drop it."),
    "zoom": Kind("error", "The target is enlarged or shrunk as a whole.", "Align or drop it."),
    "rotation": Kind("error", "The target is turned by some degrees as a whole.", "Align or drop it."),
    "orientation": Kind(
        "error",
        "One picture lies on its side, upside down or mirrored, by a wrong EXIF orientation or a lost one.",
        "Turn it as its partner is.",
        "the picture is turned as its partner is",
    ),
    "size mismatch": Kind(
        "warning",
        "Source and target have other sizes.",
        "Scale one to the other; where the aspects differ too, one was cropped or stretched: drop it.",
        "the target is scaled to the source where the aspects agree",
    ),
    "aspect mismatch": Kind("error", "Source and target have other aspects.", "Crop both alike, or drop the pair."),
    "colour profile": Kind(
        "warning",
        "Source and target are stored in other colour spaces, so that equal numbers are other colours.",
        "Convert both to sRGB.",
        "both are converted to sRGB",
    ),
    "empty text": Kind("error", "There is no instruction.", "Write one, or drop the pair."),
    "copied text": Kind(
        "error",
        "The instruction is a description of a picture.",
        "Write what is to change.",
        "other phrasings are kept, this one is dropped",
    ),
    "not an instruction": Kind(
        "error",
        "The instruction is a file name, a prompt, a placeholder or something else that nobody asks an editor for.",
        "Write what is to change.",
        "other phrasings are kept, this one is dropped",
    ),
    "count": Kind("error", "There are not as many rows as the authors say.", "Fetch the rest, or correct [expect]."),
    "low score": Kind("warning", "The pair's own score is low.", "Drop it."),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: a key of `KINDS`.
        key: the example, or the file that no example uses.
        why: in words.
        index: the example's number in its split; -1 for a file without one.
        split: "train" or "test"; "" where only one was looked at.
        severity: "error", "warning" or "note"; "" in the constructor = the kind's.
        category: of the pair.
        figures: what was measured.
    """

    kind: str
    key: str
    why: str
    index: int = -1
    split: str = ""
    severity: Severity | Literal[""] = ""
    category: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.severity:
            object.__setattr__(self, "severity", KINDS[self.kind].severity)


@dataclass
class Findings:
    """What a check found in one split."""

    count: int
    items: list[Finding] = field(default_factory=list)

    @property
    def kinds(self) -> Counter[str]:
        return Counter(f.kind for f in self.items)


def findings_of(name: str) -> Path:
    """Where the findings of the last check of a data set are kept, for the page that shows them."""
    return Path("runs") / f"check-{name}.findings.jsonl"


def write_findings(path: Path, sums: Mapping[str, str], found: Iterable[Finding]) -> None:
    """Writes findings, a line each, behind a line with the hash of each split that was looked at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"sha256": dict(sums)}), *(json.dumps(asdict(finding), ensure_ascii=False) for finding in found)]
    write_whole(path, "".join(line + "\n" for line in lines))


def read_findings(path: Path, split: str, sha256: str) -> list[Finding] | None:
    """The findings of one split; None where this version of the data was not looked at."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        if json.loads(next(file, "{}")).get("sha256", {}).get(split) != sha256:
            return None
        return [found for line in file if (found := Finding(**json.loads(line))).split == split]
