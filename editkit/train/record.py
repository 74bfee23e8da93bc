"""What a run says about itself: recipe.toml, run.json, metrics.jsonl, pace.jsonl, failures/, and the lines of its trackers."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from editkit.data.examples import Dataset, pictures_of
from editkit.data.pictures import PictureError
from editkit.files import write_whole
from editkit.recipe.load import dump, recipe_hash
from editkit.recipe.schema import Recipe
from editkit.train.batches import Taken
from editkit.train.ranks import world
from editkit.train.track import Tracking

FORMAT = 1
PACKAGES = ("editkit", "torch", "diffusers", "transformers", "peft", "datasets", "pillow", "numpy")
# metrics.jsonl depends on the recipe alone, so that two runs of it can be compared byte by byte; pace.jsonl on the machine too.
METRICS, PACE = "metrics.jsonl", "pace.jsonl"
FAILURES = "failures"
PREVIEWS = "previews"


class Record:
    """The files of one run; processes other than the first have one that writes nothing.

    Args:
        run: the folder.
        writes: whether this is the process that writes.
        tracking: who gets the same lines, and the previews; from the process that writes.
    """

    def __init__(self, run: Path, writes: bool = True, tracking: Tracking | None = None) -> None:
        self.run = run
        self._writes = writes
        self._tracking = tracking if writes else None
        self._facts: dict[str, Any] = {}

    def begin(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        """A new run."""
        if self._tracking is not None:
            self._tracking.begin()
        if self._writes:
            write_whole(self.run / "recipe.toml", dump(recipe))
        self._cut(-1)  # a run that was killed before its first checkpoint begins anew
        self._facts = {
            "format": FORMAT,
            "name": recipe.name,
            "recipe_sha256": recipe_hash(recipe),
            "method": recipe.method.name,
            "base": recipe.model.base,
            "seed": recipe.seed,
            **facts,
            "versions": {p: version(p) for p in PACKAGES} | {"python": platform.python_version()},
            "started": _now(),
            "state": "running",
        }
        self._write()

    def go_on(self, recipe: Recipe, step: int) -> dict[str, Any]:
        """A run that is resumed: the lines of what it does again are dropped, the results at `step` among them.

        A recipe that says something else than before, such as another guidance, is that of the run from now on, for all that
        samples or publishes it reads it there; run.json keeps the earlier one under "recipes_before".

        Returns:
            The figures of the last line of training that stays; {} = none.
        """
        self._facts = json.loads((self.run / "run.json").read_text(encoding="utf-8"))
        before, now = self._facts["recipe_sha256"], recipe_hash(recipe)
        if before != now and self._writes:
            path = self.run / "recipe.toml"
            earlier = {"until_step": step, "recipe_sha256": before, "recipe": path.read_text(encoding="utf-8")}
            self._facts.setdefault("recipes_before", []).append(earlier)
            self._facts["recipe_sha256"] = now
            write_whole(path, dump(recipe))
        self._facts["state"] = "running"
        if self._tracking is not None:
            self._tracking.begin(step, self._last_steps())
        self._cut(step, results=False)
        self._write()
        path = self.run / METRICS
        return next((line for _, line in reversed(read_lines(path) if path.is_file() else [])), {})

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of figures that depend on the recipe alone."""
        self._append(METRICS, line)
        if self._tracking is not None:
            self._tracking.line(line["kind"], line)

    def pace(self, line: Mapping[str, Any]) -> None:
        """A line of figures that depend on the machine."""
        self._append(PACE, line)
        if self._tracking is not None:
            self._tracking.line("pace", line)

    def previewed(self, step: int) -> None:
        """The pictures of a step have been written."""
        if self._tracking is not None:
            self._tracking.pictures(step, sorted((self.run / PREVIEWS).glob(f"step-{step:06d}*.png")))

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        if self._writes:
            with (self.run / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def cut(self, step: int) -> None:
        """Drops the lines of later steps."""
        self._cut(step)
        if self._tracking is not None:
            self._tracking.cut(step)

    def _cut(self, step: int, results: bool = True) -> None:
        """Drops the lines of later steps, and one that a kill has cut short.

        Args:
            step: the last one that stays.
            results: whether what was measured at that step, in a preview or at the end, stays too.
        """
        for path in (self.run / METRICS, self.run / PACE):
            if self._writes and path.is_file():
                lines = read_lines(path)
                kept = [t for t, line in lines if line["step"] < step + (results or line["kind"] == "train")]
                write_whole(path, "".join(text + "\n" for text in kept))

    def _last_steps(self) -> dict[str, int]:
        """Of each stream of lines that a tracker gets."""
        files = [(path, stream) for path, stream in ((METRICS, None), (PACE, "pace")) if (self.run / path).is_file()]
        lines = [(stream or line["kind"], line["step"]) for path, stream in files for _, line in read_lines(self.run / path)]
        pictures = [("preview", int(p.stem.split("-")[1])) for p in (self.run / PREVIEWS).glob("step-*.png")]
        last: dict[str, int] = {}
        for stream, step in [*lines, *pictures]:
            last[stream] = max(step, last.get(stream, step))
        return last

    def failed(self, what: Mapping[str, Any], taken: Sequence[Taken], dataset: Dataset[Any], usable: Sequence[int]) -> None:
        """Writes down the examples of a step that went wrong: pictures, texts, and what their random draws depend on.

        Every process writes its own; the names of all but the first's begin with its number.
        """
        folder = self.run / FAILURES / f"step-{what['step']:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        rank, _ = world()
        listed = []
        for batch in taken:
            rows = zip(batch.planned.rows, batch.planned.positions, batch.batch["text"], strict=True)
            for row, position, text in rows:
                example = dataset[usable[row]]
                number = len(listed)
                for role, picture in pictures_of(example):
                    try:
                        picture.open().save(folder / f"{f'{rank}-' if rank else ''}{number:03d}-{role}.png")
                    except PictureError as error:
                        text = f"{text} [{error}]"
                listed.append({"key": example.key, "position": position, "text": text})
        facts = {**what, "loss_draws": "editkit.data.draws.Draws(seed, [position])", "examples": listed}
        write_whole(folder / (f"{rank}-batch.json" if rank else "batch.json"), json.dumps(facts, indent=1))

    def finish(self, state: str, **figures: Any) -> None:
        """The last word: "done", "stopped" or "failed"."""
        self._facts |= {"state": state, "finished": _now(), **figures}
        self._write()
        self.close()

    def close(self) -> None:
        """No more lines come from this object."""
        if self._tracking is not None:
            self._tracking.close()

    def _write(self) -> None:
        if self._writes:
            write_whole(self.run / "run.json", json.dumps(self._facts, indent=1))


def read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a JSONL file, as they stand and as they read; one that was cut short by a kill is left out."""
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        found.append((text, line))
    return found


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What a figure has to be reported with: device, its name, threads, system."""
    name = platform.processor() or platform.machine()
    if device.type == "cpu":
        info = Path("/proc/cpuinfo")
        models = [s for s in info.read_text().splitlines() if s.startswith("model name")] if info.is_file() else []
        name = models[0].partition(":")[2].strip() if models else name
    elif device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": device.type, "name": name, "threads": torch.get_num_threads(), "system": platform.system()}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
