"""A trajectory that a visitor of the page steers: what there is of it, under which settings it came about, and its files."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apps.page import FILES
from editkit.evaluate.generate_file import BY_HAND, NAME_LENGTH
from editkit.evaluate.plan_folder import PlanFolder, save_picture
from editkit.evaluate.steering import Part
from editkit.models.generator import Drawn, Said


@dataclass
class Course:
    """A trajectory and where it stands; it grows while it is drawn.

    Attributes:
        prompt: what is drawn.
        parts: texts and pictures.
        files: where the pictures lie; "" of a text.
        sampling: {"from", "seed", "steps", ...} of each time that the model was asked to go on; "from" counts parts, from 1.
        why, by_itself: as of `Ended`.
        stop: whether a person asked for it.
        archive: everything as `editkit generate --plan` saves it.
    """

    prompt: str = ""
    parts: list[Part] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    sampling: list[dict[str, Any]] = field(default_factory=list)
    why: str = ""
    by_itself: bool = False
    stop: bool = False
    archive: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether it was drawn, and ended in the middle."""
        return bool(self.prompt) and self.why == BY_HAND

    def begin(self, prompt: str, begun: Sequence[Part], settings: Mapping[str, Any]) -> None:
        """Goes on from `begun`; what it shares with what is there keeps its files."""
        lie = {id(part): file for part, file in zip(self.parts, self.files, strict=True)}
        self.prompt, self.parts, self.files = prompt, list(begun), [lie.get(id(part), "") for part in begun]
        asked = {"from": len(begun) + 1, **settings}
        self.sampling = [*(s for s in self.sampling if s["from"] <= len(begun)), asked]
        self.why, self.by_itself, self.stop, self.archive = BY_HAND, False, False, None

    def add(self, part: Part) -> None:
        """A part that is whole."""
        file = ""
        if isinstance(part, Drawn):
            path = Path(tempfile.mkdtemp(dir=FILES)) / f"{len(self.parts) + 1}.png"
            save_picture(part.picture, path)
            file = str(path)
        self.parts.append(part)
        self.files.append(file)

    def save(self, run: str) -> str:
        """Writes the folder that `editkit generate --plan` writes, and its archive.

        Args:
            run: what draws.

        Returns:
            Why not all of it is a trace; "" = all is.
        """
        name = re.sub(r"\W+", "-", self.prompt.lower())[:NAME_LENGTH].strip("-") or "picture"
        place = Path(tempfile.mkdtemp(dir=FILES))
        sampling = {k: v for k, v in self.sampling[-1].items() if k != "from"}
        facts = {"run": run, "seed": sampling.pop("seed"), "sampling": sampling}
        if len(self.sampling) > 1:
            facts["asked"] = self.sampling
        folder = PlanFolder(place / name / name, self.prompt, facts)
        for part in self.parts:
            if isinstance(part, Said):
                folder.add_text(part.text, by_hand=part.ids is None)
            else:
                folder.add_picture(part.picture)
        found = folder.finish(self.why, self.by_itself)
        self.archive = shutil.make_archive(str(place / name), "zip", place / name)
        shutil.rmtree(place / name)
        return found["unread"]
