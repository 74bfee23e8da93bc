"""What people decided about the examples of a data set: a log that is only ever added to, and that the next build uses.

It lies beside the data set, because a build replaces the folder: `data/NAME.decisions.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from editkit.data.spec import data_folder, load_spec
from editkit.errors import UserError

Verdict = Literal["accepted", "rejected", "open"]  # "open" takes back what was decided before


@dataclass(frozen=True, slots=True)
class Decision:
    """What is true of an example from now on.

    Attributes:
        split, key: of the example.
        verdict: "rejected" examples are left out.
        instruction: in place of the instructions that were there; "" = they stay.
        at: when it was decided, UTC.
    """

    split: str
    key: str
    verdict: Verdict = "open"
    instruction: str = ""
    at: str = ""


class Decisions:
    """The log, and what is true by its last word on each example.

    Args:
        path: of the log; it is made by the first decision.

    Raises:
        UserError: a line is no decision.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._latest: dict[tuple[str, str], Decision] = {}
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                self._note(_read(line))
            except (ValueError, TypeError, KeyError) as error:
                if number == len(lines):  # behind it there is no end of a line: a kill cut it off
                    continue
                raise UserError(f"{path}: line {number} is no decision ({error}); mend it, or take it out") from error

    def __len__(self) -> int:
        return len(self._latest)

    def of(self, split: str, key: str) -> Decision:
        """The last word on an example."""
        return self._latest.get((split, key)) or Decision(split, key)

    def add(self, decision: Decision) -> None:
        """Writes a decision to the end of the log, so that no other is touched, and waits until the disk has it."""
        decision = replace(decision, at=datetime.now(UTC).isoformat(timespec="seconds"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_a_line(self.path)
        with self.path.open("ab") as file:
            file.write(json.dumps(asdict(decision), ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._note(decision)

    def counts(self) -> Counter[str]:
        """How many examples are accepted, rejected and rewritten."""
        found: Counter[str] = Counter(d.verdict for d in self._latest.values() if d.verdict != "open")
        found["rewritten"] = sum(bool(d.instruction) and d.verdict != "rejected" for d in self._latest.values())
        return found

    def all(self) -> Mapping[tuple[str, str], Decision]:
        """By (split, key): what was decided and not taken back."""
        return {at: d for at, d in self._latest.items() if d.verdict != "open" or d.instruction}

    def effective(self) -> Mapping[tuple[str, str], Decision]:
        """Those that change the data."""
        return {at: d for at, d in self._latest.items() if d.verdict == "rejected" or d.instruction}

    def digest(self) -> str:
        """A hash of what changes the data; "" for nothing."""
        said = sorted((*at, d.verdict == "rejected", d.instruction) for at, d in self.effective().items())
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16] if said else ""

    def _note(self, decision: Decision) -> None:
        self._latest[decision.split, decision.key] = decision


def log_of(where: str | Path) -> Path:
    """Where the decisions about a data set are kept.

    Args:
        where: a data spec, a data-set folder, or its URL: of what lies behind one, they are kept under data/ here.
    """
    path = Path(where)
    if "://" in str(where):
        folder = Path("data") / path.name
    else:
        folder = data_folder(load_spec(path)[0]) if path.suffix == ".toml" else Path(os.path.normpath(path))
    return folder.with_name(folder.name + ".decisions.jsonl")


def _read(line: bytes) -> Decision:
    found = Decision(**json.loads(line))
    if found.verdict not in get_args(Verdict):
        raise ValueError(f'found verdict "{found.verdict}"')
    return found


def _drop_half_a_line(path: Path) -> None:
    """What a kill left of a line that nobody was told is written."""
    whole = path.read_bytes() if path.is_file() else b""
    if whole and not whole.endswith(b"\n"):
        os.truncate(path, whole.rfind(b"\n") + 1)
