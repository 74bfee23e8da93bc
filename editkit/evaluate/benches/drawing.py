"""Drawing what a bench asks for: one picture after another, each whole or not there, so that a stopped bench goes on.

Every picture has random numbers of its own: which ones depends on the seed, the prompt's number and the picture's number alone,
so what was drawn after a stop, or with more pictures a prompt, is what would have been drawn at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.plan_folder import save_picture
from editkit.evaluate.trajectories import EMPTY, Trajectory
from editkit.files import write_whole
from editkit.models.generator import PLANS, BagelGenerator, Drawn, Ended, Generator, load_generator, load_planner
from editkit.models.locate import locate_trained, read_metadata, version_of
from editkit.models.precision import choose_device
from editkit.progress import progress
from editkit.runs import hold

DRAWN = "drawn.json"  # of a bench folder: what drew it, and how
MAX_SEED = 2**31


@dataclass(frozen=True, slots=True)
class Wanted:
    """One picture of a bench.

    Attributes:
        prompt: what it shall show.
        path: where it belongs, a PNG.
        seed: of its random numbers.
    """

    prompt: str
    path: Path
    seed: int


class Drawer(Protocol):
    """What draws.

    Attributes:
        facts: all that its pictures depend on, besides prompt and seed.
    """

    facts: Mapping[str, Any]

    def draw(self, prompt: str, seed: int) -> Image.Image:
        """An RGB picture."""
        ...


def load_drawer(run: str) -> Drawer:
    """Loads a run, or another model, that draws from text; one that was trained to plan draws in steps.

    Raises:
        UserError: there is none, or it does something else.
    """
    model, facts = load_to_draw(run)
    plans = isinstance(model, BagelGenerator) and model.plans
    facts["in_steps"] = plans
    return InSteps(model, facts) if isinstance(model, BagelGenerator) and plans else AtOnce(model, facts)


def load_to_draw(run: str) -> tuple[Generator, dict[str, Any]]:
    """A model that draws from text, as a planner where it was trained to plan, and what its pictures depend on.

    Raises:
        UserError: see `load_drawer`.
    """
    folder = locate_trained(run, ("model", "adapter"))
    plans = read_metadata(folder).get("method") == PLANS
    model = (load_planner if plans else load_generator)(run, device=choose_device())
    return model, {"model_sha256": version_of(str(folder)), "sampling": dict(model.defaults)}


class AtOnce:
    """Draws as `editkit generate` does, with the guidance that is stated beside the weights."""

    def __init__(self, model: Generator, facts: Mapping[str, Any]) -> None:
        self._model, self.facts = model, facts

    def draw(self, prompt: str, seed: int) -> Image.Image:
        """See `Drawer.draw`."""
        defaults = self._model.defaults
        return self._model.draw(prompt, text_guidance=defaults["text_guidance"], steps=defaults["steps"], seed=seed)


class InSteps:
    """Draws as `editkit generate --plan` does; the last picture counts, and an empty one where the model drew none."""

    def __init__(self, model: BagelGenerator, facts: Mapping[str, Any]) -> None:
        self._model, self.facts = model, facts

    def draw(self, prompt: str, seed: int) -> Image.Image:
        """See `Drawer.draw`."""
        names = ("text_guidance", "image_guidance", "steps")
        sampling = {name: self._model.defaults[name] for name in names}
        made = Trajectory()
        for event in self._model.steps(prompt, **sampling, seed=seed):
            if isinstance(event, Drawn):
                made.parts.append(event.picture)
            elif isinstance(event, Ended):
                break
        return made.last_picture(self._model.defaults["resolution"])


def seed_of(seed: int, prompt: int, sample: int) -> int:
    """The seed of one picture, in [0, 2^31).

    Args:
        seed: of the bench.
        prompt: its number in the prompt file, from 0.
        sample: which of the pictures of that prompt, from 0.
    """
    return Random(f"bench/{seed}/{prompt}/{sample}").randrange(MAX_SEED)


def draw_missing(
    drawer: Drawer, wanted: Sequence[Wanted], folder: Path, facts: Mapping[str, Any], begin: Callable[[], object]
) -> None:
    """Draws those pictures that are not there yet.

    Args:
        drawer: what draws.
        wanted: the pictures of the bench.
        folder: of the bench; `DRAWN` says in it what drew them.
        facts: what the pictures depend on besides the drawer; and "run", which is only noted.
        begin: writes what else belongs to the folder, once that is known to be this bench's.

    Raises:
        UserError: what is there was drawn otherwise; another process draws there; the disk is full.
    """
    stated = {**facts, **drawer.facts, "pictures": len(wanted)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold(folder / ".lock", f"{folder}: another process is drawing this bench; wait for it, or stop it first"):
            _check_drawn(folder, stated)
            write_whole(folder / DRAWN, json.dumps(stated, indent=1))
            begin()
            missing = [one for one in wanted if not one.path.is_file()]
            with progress(len(wanted), "drawing", done=len(wanted) - len(missing)) as bar:
                for one in missing:
                    one.path.parent.mkdir(parents=True, exist_ok=True)
                    save_picture(drawer.draw(one.prompt, one.seed), one.path)
                    bar.advance()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error


def read_drawn(folder: Path) -> dict[str, Any] | None:
    """What drew a bench folder, and how; None where somebody else did."""
    path = folder / DRAWN
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read ({error}); move {folder} away, and the bench is drawn anew") from error


def sha256_of(prompts: Sequence[Any]) -> str:
    """A hash by which two prompt files are the same."""
    return hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()


def count_empty(paths: Sequence[Path]) -> int:
    """How many pictures stand for one that the model did not draw."""
    count = 0
    for path in paths:
        with Image.open(path) as picture:
            found = picture.convert("RGB").getcolors(1)
        count += found is not None and found[0][1] == EMPTY
    return count


def _check_drawn(folder: Path, stated: Mapping[str, Any]) -> None:
    """Pictures of two models, or of two prompt files, do not make one bench."""
    before = read_drawn(folder)
    if before is None:
        if any(folder.rglob("*.png")):
            raise UserError(f"{folder}: found pictures without {DRAWN}, which somebody else drew; move them away")
        return
    if changed := first_change(before, stated, beside=("run", "pictures")):
        raise UserError(f"{folder}: was drawn with {changed}; move the folder away to draw anew")


def first_change(before: Mapping[str, Any], now: Mapping[str, Any], beside: Sequence[str] = ()) -> str:
    """The first fact, by its name, in which two differ: "seed = 0; expected 1"; "" = none.

    Args:
        before: what is noted.
        now: what is wanted.
        beside: names that may differ.
    """
    for name in sorted((set(before) | set(now)) - set(beside)):
        if before.get(name) != now.get(name):
            return f"{name} = {json.dumps(before.get(name))}; expected {json.dumps(now.get(name))}"
    return ""
