"""A picture that was drawn in steps, on disk: the trace as far as it is one, every picture, and all that was written.

traces.jsonl     the trace (`editkit.data.trace_files`), as far as what was written follows the grammar
images/          the pictures
filmstrip.png    a frame a step, with its words
picture.png      what it came to
generated.json   all of it in order, with what cannot be read as it was written
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from editkit.data.pictures import Picture
from editkit.data.trace_files import IMAGES, LINES, write_traces
from editkit.data.traces import NeedLoss, PlanStep, PlanTrace, TraceError, check_trace, parse_inspection, parse_plan, steps_of
from editkit.evaluate.filmstrips import filmstrips
from editkit.evaluate.trajectories import Trajectory, frames_of
from editkit.files import whole_file, write_whole

FILMSTRIP, PICTURE, SUMMARY = "filmstrip.png", "picture.png", "generated.json"
BEGIN, GO_ON = "Begin with the given picture", "Go on with picture "  # plans of pictures that are there already


class PlanFolder:
    """Takes the steps as they come; each picture is on the disk at once.

    Args:
        folder: that is made with the first picture, or at the end.
        prompt: what is drawn.
        facts: what the summary states first: the model, the seed and the sampling.
    """

    def __init__(self, folder: Path, prompt: str, facts: Mapping[str, Any]) -> None:
        self.folder, self._prompt, self._facts = folder, prompt, facts
        self.trajectory = Trajectory()
        self.events: list[dict[str, Any]] = []
        self._key = folder.name if re.fullmatch(r"[\w.-]+", folder.name) else "trace"
        self._parts: list[str | Picture] = []  # of the trajectory, with the pictures as files

    def add_text(self, text: str, *, by_hand: bool = False) -> dict[str, Any]:
        """A text that came to its end: what it is.

        Args:
            text: as it was written.
            by_hand: whether a person wrote it, which the summary and the trace state.
        """
        self.trajectory.add_text(text, by_hand=by_hand)
        self._parts.append(text)
        self.events.append(read_text(text))
        return self.events[-1]

    def add_note(self, text: str) -> None:
        """Something to be known that is no part of the trace."""
        self.events.append({"kind": "note", "text": text})

    def add_picture(self, picture: Image.Image, kept: bool = False) -> dict[str, Any]:
        """A picture: what it is, and in which file of the folder it lies; `kept` = one of before, or a given one."""
        verdicts = [e["ok"] for e in self.events[-2:] if e["kind"] == "verdict"]
        name = self._name()
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_picture(picture, path)
        self.trajectory.parts.append(picture)
        self._parts.append(Picture(path=path))
        drawn = "refined" if verdicts and not verdicts[-1] else "sketch"
        self.events.append({"kind": "kept" if kept else drawn, "image": name})
        return self.events[-1]

    def _name(self) -> str:
        """That of the step in a trace, so that the trace has its pictures there; another one where there is no such step."""
        plans = sum(event["kind"] == "plan" for event in self.events)
        taken = {event.get("image") for event in self.events}
        names = (f"{IMAGES}/{self._key}-{plans:02d}{more}.png" for more in ("", *(f"-{n}" for n in range(2, 1000))))
        return next(name for name in names if name not in taken)

    def finish(self, why: str, by_itself: bool, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Writes what belongs to the whole, the summary last.

        Args:
            why: it ended.
            by_itself: whether the model said so.
            facts: what else the summary states.

        Returns:
            The summary and its "folder", in which the files that it names lie.
        """
        made, folder = self.trajectory, self.folder
        made.why, made.by_itself = why, by_itself
        folder.mkdir(parents=True, exist_ok=True)
        stated = {**self._facts, "stopped": why, "by_itself": by_itself, **(facts or {})}
        if made.by_hand:
            stated["by_hand"] = [n + 1 for n in made.by_hand]
        trace, read, unread = readable_trace(self._prompt, self._parts, self._key, json.dumps(stated))
        if trace is not None:
            write_traces(folder, [trace])
        if made.pictures:
            save_picture(made.pictures[-1], folder / PICTURE)
        save_picture(filmstrips([(f"{self._prompt} ({why})", frames_of(made))]), folder / FILMSTRIP)
        summary = {
            "prompt": self._prompt,
            **stated,
            "picture": PICTURE if made.pictures else None,
            "filmstrip": FILMSTRIP,
            "traces": LINES if trace is not None else None,
            "events": self.events,
            "events_in_trace": read,
            "unread": unread,
        }
        write_whole(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False))
        return {"folder": str(folder), **summary}


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a whole file of the format that its ending names."""
    with whole_file(path) as half:
        picture.save(half, Image.registered_extensions()[path.suffix.lower()])


def read_text(text: str) -> dict[str, Any]:
    """What a text is: {"kind": "plan", "verdict" or "text", ...}; of a text that cannot be read, "unread" says why."""
    try:
        if text.startswith("<ins>"):
            ins, des = parse_plan(text)
            return {"kind": "plan", "ins": ins, "des": des}
        seen = parse_inspection(text)
    except TraceError as error:
        return {"kind": "text", "text": text, "unread": error.why}
    lists = {"issues": list(seen.issues), "deferred": list(seen.deferred)}
    return {"kind": "verdict", "ok": seen.ok, "on": seen.on, **lists, "refine": seen.refine}


def readable_trace(prompt: str, parts: Sequence[str | Picture], key: str, provenance: str) -> tuple[PlanTrace | None, int, str]:
    """The longest beginning that is a trace.

    Args:
        prompt: of the trace.
        parts: plans, pictures and inspections as they follow each other, or whatever was written.
        key, provenance: of the trace.

    Returns:
        The trace, or None; how many parts are in it; and why not all are, "" = all are.
    """
    why = ""
    for count in range(len(parts), 0, -1):
        try:
            steps = [_to_learn(step) for step in steps_of(parts[:count], key)]
            seen = steps[-1].inspection
            done = seen is None or (seen.ok and not seen.deferred)
            final = steps[-1].sketch if done else None
            return check_trace(PlanTrace(key, prompt, tuple(steps), final, provenance=provenance)), count, why
        except TraceError as error:
            why = f"step {error.step}: {error.why}" if error.step else error.why
    return None, 0, why or "nothing was written"


def _to_learn(step: PlanStep) -> PlanStep:
    """What the model itself rejected, or did not draw, is there to be seen, should somebody learn from the trace."""
    rejected = step.inspection is not None and not step.inspection.ok
    seen = rejected or step.ins.startswith((BEGIN, GO_ON))
    return replace(step, need_loss=NeedLoss(plan=False, sketch=False)) if seen else step
