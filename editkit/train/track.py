"""The run's figures and previews in TensorBoard, trackio or Weights & Biases, each through its own library.

The run folder stays the truth: a tracker gets the same lines as `metrics.jsonl` and `pace.jsonl`, and one that fails is left
behind. Libraries are imported where they are asked for, and kept from sending anything that the recipe did not ask for.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import constants as hub_constants
from PIL import Image

from editkit.errors import UserError
from editkit.files import write_whole
from editkit.recipe.schema import Recipe
from editkit.recipe.schema import Tracking as Options

IDS = "tracking.json"  # of the run: back end -> what its library calls this run
TENSORBOARD = "tensorboard"  # folder of the run
EXTRAS = {"tensorboard": "tracking", "trackio": "tracking", "wandb": "wandb"}
MODULES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio", "wandb": "wandb"}
REMOTE_TRACKIO = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def check_tracking(options: Options) -> None:
    """Imports what is asked for, so that a missing package is said before anything else is done.

    Raises:
        UserError: a package is missing, with the extra that brings it; or trackio is set to send its figures elsewhere.
    """
    if "wandb" in options.to:
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # it would report its own errors and counters to its makers
    for name in options.to:
        try:
            importlib.import_module(MODULES[name])
        except ImportError as error:
            raise UserError(
                f'tracking.to: "{name}" cannot be imported ({error}); pip install "editkit[{EXTRAS[name]}]"'
            ) from error
    if "trackio" in options.to and (found := [v for v in REMOTE_TRACKIO if os.environ.get(v)]):
        raise UserError(
            f"tracking.to: trackio stays on this machine, but ${found[0]} is set; unset it, and upload with trackio sync later"
        )


class Tracking:
    """The trackers of one run.

    A line of a step that a tracker has seen is not sent to it again. TensorBoard can forget, so after a resume or a rollback it
    has what metrics.jsonl has; trackio and wandb cannot, and keep the figures of steps that were rolled back.

    Args:
        recipe: whose `[tracking]` names the trackers; all of it is shown beside the figures.
        run: the run folder.
    """

    def __init__(self, recipe: Recipe, run: Path) -> None:
        self._recipe = recipe
        self._run = run
        self._open: dict[str, _Tracker] = {}
        self._seen: dict[tuple[str, str], int] = {}  # tracker and stream of lines -> the last step that it has

    def begin(self, resumed_at: int | None = None, seen: Mapping[str, int] | None = None) -> None:
        """Opens the trackers.

        Args:
            resumed_at: the step of the checkpoint; None = a new run.
            seen: of a resumed run, the last step of each stream of lines before it was cut.

        Raises:
            UserError: one cannot be opened.
        """
        ids = self._ids() if resumed_at is not None else {}
        for name in self._recipe.tracking.to:
            known = ids.get(name)
            try:
                self._open[name], ids[name] = _OPENERS[name](self._recipe, self._run, known, resumed_at)
            except Exception as error:
                raise UserError(f"tracking.to: {name} cannot be opened: {_first_line(error)}") from error
            if known is not None and not self._open[name].forgets:
                self._seen |= {(name, stream): step for stream, step in (seen or {}).items()}
        if ids:
            write_whole(self._run / IDS, json.dumps(ids, indent=1))

    def _ids(self) -> dict[str, Any]:
        path = self._run / IDS
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def cut(self, step: int) -> None:
        """The training goes on behind an earlier step: those that can forget do."""
        self._each(lambda tracker: tracker.cut(step))

    def line(self, stream: str, line: Mapping[str, Any]) -> None:
        """The numbers of a line of metrics.jsonl or pace.jsonl.

        Args:
            stream: first part of the figures' names: "train", "pace", "eval" or "final".
            line: with "step"; what is no number is left out.
        """
        step = line["step"]
        figures = {f"{stream}/{k}": v for k, v in _numbers(line) if k not in ("step", "kind")}
        self._each(lambda tracker: tracker.figures(step, figures), stream, step)

    def pictures(self, step: int, paths: Sequence[Path]) -> None:
        """The pictures of a preview."""
        named = [(f"preview/{p.stem.removeprefix(f'step-{step:06d}').lstrip('-') or 'edits'}", p) for p in paths]
        self._each(lambda tracker: tracker.pictures(step, named), "preview", step)

    def close(self) -> None:
        """Writes what is under way."""
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, work: Callable[[_Tracker], None], stream: str = "", step: int = 0) -> None:
        for name, tracker in list(self._open.items()):
            if stream and step <= self._seen.get((name, stream), -1):
                continue
            try:
                work(tracker)
            except Exception as error:  # whatever a tracker does, the training is worth more
                print(f"tracking: {name} failed ({_first_line(error)}); the training goes on without it", file=sys.stderr)
                del self._open[name]
            else:
                if stream:
                    self._seen[name, stream] = -1 if tracker.forgets else step


class _Tracker(Protocol):
    """One back end; whatever it raises ends it."""

    forgets: bool  # whether it can drop the figures of later steps

    def figures(self, step: int, figures: Mapping[str, float]) -> None: ...

    def pictures(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None: ...

    def cut(self, step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    forgets = True

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        self._folder = folder
        self._start(None if resumed_at is None else resumed_at + 1)

    def _start(self, purge_step: int | None) -> None:
        kind = importlib.import_module(MODULES["tensorboard"]).SummaryWriter
        self._writer = kind(str(self._folder), purge_step=purge_step)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # or a kill would cost the last two minutes

    def pictures(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        import numpy as np

        for name, path in pictures:
            with Image.open(path) as picture:
                self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def cut(self, step: int) -> None:
        self._writer.close()
        self._start(step + 1)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    forgets = False

    def __init__(self, run: Any, kind: Any) -> None:
        self._run, self._image = run, kind

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def pictures(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        self._run.log({name: self._image(str(path)) for name, path in pictures}, step=step)

    def cut(self, step: int) -> None:
        return

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module("trackio").finish()


class _Wandb(_Trackio):
    def close(self) -> None:
        self._run.finish()


def _open_tensorboard(recipe: Recipe, run: Path, known: Any, resumed_at: int | None) -> tuple[_Tracker, Any]:
    return _TensorBoard(run / TENSORBOARD, resumed_at), TENSORBOARD


def _open_trackio(recipe: Recipe, run: Path, known: Any, resumed_at: int | None) -> tuple[_Tracker, Any]:
    """In the library's own place (`$TRACKIO_DIR`), under the name of the run folder."""
    trackio: Any = importlib.import_module("trackio")
    named = known or {"project": recipe.tracking.project, "name": run.resolve().name}
    with _offline_hub(), contextlib.redirect_stdout(io.StringIO()):  # it prints how to start its page
        opened = trackio.init(
            **named,
            resume="never" if known is None else "allow",
            config=recipe.model_dump(mode="json"),
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
    return _Trackio(opened, trackio.Image), named


def _open_wandb(recipe: Recipe, run: Path, known: Any, resumed_at: int | None) -> tuple[_Tracker, Any]:
    """Online or offline as the library's settings say; its files lie in the run. No console, code, machine or packages."""
    wandb: Any = importlib.import_module("wandb")
    opened = wandb.init(
        project=(known or {}).get("project", recipe.tracking.project),
        id=(known or {}).get("id"),
        resume="allow",
        name=run.resolve().name,
        dir=str(run),
        config=recipe.model_dump(mode="json"),
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
    )
    return _Wandb(opened, wandb.Image), {"project": opened.project, "id": opened.id}


_OPENERS: dict[str, Callable[[Recipe, Path, Any, int | None], tuple[_Tracker, Any]]] = {
    "tensorboard": _open_tensorboard,
    "trackio": _open_trackio,
    "wandb": _open_wandb,
}


@contextlib.contextmanager
def _offline_hub() -> Generator[None, None, None]:
    """The Hub is asked by trackio for the user's name where there is a token; a run on this machine needs none."""
    before = hub_constants.HF_HUB_OFFLINE
    hub_constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = before


def _numbers(value: Mapping[str, Any], prefix: str = "") -> Generator[tuple[str, float], None, None]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _numbers(inner, f"{prefix}{key}/")
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            yield f"{prefix}{key}", inner


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
