"""Drawing one prompt, as `editkit generate` does: at once, or in steps that are told as they happen."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, cast

from editkit.data.traces import check_prompt
from editkit.errors import UserError
from editkit.evaluate.edit_file import WRITABLE, check_place, check_sampling
from editkit.evaluate.plan_folder import PlanFolder, save_picture
from editkit.evaluate.steering import in_one_line
from editkit.models.generator import (
    BagelGenerator,
    Drawn,
    Ended,
    Letters,
    Noted,
    Planner,
    Said,
    load_generator,
    load_planner,
)
from editkit.models.generator import Generator as PictureGenerator
from editkit.models.precision import choose_device
from editkit.progress import Bar, progress
from editkit.runs import find_run

MAX_SEED = 2**31 - 1
NAME_LENGTH = 40  # characters of the prompt in a file's name
BY_HAND = "stopped by hand"


def generate_file(
    prompt: str,
    run: str,
    out: str | None,
    *,
    plan: bool = False,
    text_guidance: float | None = None,
    image_guidance: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    open_planner: Callable[..., Planner] = load_planner,
) -> dict[str, Any]:
    """Draws a prompt and saves what was made; in steps, they are printed as they happen.

    Args:
        prompt: what to draw, in one line.
        run: the model (see `load_generator`, and `load_planner` of steps).
        out: the file to write, or of steps the folder; None = a new name after the prompt in the current folder.
        plan: whether in steps: plans, sketches and verdicts.
        text_guidance, image_guidance, steps: None = as the run's recipe has it; of `image_guidance`, with `plan` only.
        seed: of all random numbers, in [0, 2^31).
        open_planner: from (run, device=) to what draws in steps.

    Returns:
        {"prompt", "run", "seed", "sampling", "picture"}; of steps also what `PlanFolder.finish` adds. "picture" is None
        where the model stopped before it drew one.

    Raises:
        UserError: a prompt, an option, a place or a model that cannot be used; what is missing on the disk.
        KeyboardInterrupt: what was whole by then is saved.
    """
    prompt = prompt.strip()
    check_asked(prompt)
    check_sampling(text_guidance, image_guidance, steps)
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed: found {seed}; expected 0 to {MAX_SEED}")
    if image_guidance is not None and not plan:
        raise UserError("--image-guidance: found it without --plan, where there is no picture before; leave one out or add one")
    path = _place(prompt, out, plan)
    if run == "latest":
        run = str(find_run(run))  # what is saved says which
    device = choose_device()
    model = open_planner(run, device=device) if plan else load_generator(run, device=device)
    given = {"steps": steps, "text_guidance": text_guidance} | ({"image_guidance": image_guidance} if plan else {})
    sampling: dict[str, Any] = {name: model.defaults[name] if value is None else value for name, value in given.items()}
    facts = {"run": run, "seed": seed, "sampling": sampling}
    if plan:
        return _in_steps(cast(Planner, model), PlanFolder(path, prompt, facts), prompt, sampling, seed)
    if isinstance(model, BagelGenerator) and model.plans:
        print("drawing at once; this run also plans, looks and refines: --plan draws in steps", file=sys.stderr)
    with progress(sampling["steps"], "drawing") as bar:
        picture = cast(PictureGenerator, model).draw(prompt, **sampling, seed=seed, after_step=bar.advance)
    with _writing(path):
        save_picture(picture, path)
    return {"prompt": prompt, **facts, "picture": str(path)}


def print_generated(result: Mapping[str, Any]) -> None:
    """Where what was made lies."""
    if "folder" not in result:
        print(result["picture"])
        return
    if result["unread"]:
        print(f"not all is a trace ({_line(result['unread'])}); everything as it was written: generated.json")
    if result["picture"] is None:
        print(f"no picture: the model stopped before it drew one ({_line(result['stopped'])})")
    elif not result["by_itself"]:
        print(f"stopped: {_line(result['stopped'])}")
    names = [result[name] for name in ("picture", "filmstrip", "traces") if result[name]]
    print(f"{result['folder']}: {', '.join(names)}")


def _in_steps(model: Planner, folder: PlanFolder, prompt: str, sampling: Mapping[str, Any], seed: int) -> dict[str, Any]:
    teller, bars = _Teller(), _Bars(sampling["steps"])
    ended = Ended("", by_itself=False)
    try:
        try:
            with bars.closing():
                for event in model.steps(prompt, **sampling, seed=seed, after_step=bars.advance):
                    if isinstance(event, Letters):
                        teller.letters(event.text)
                    elif isinstance(event, Said):
                        teller.said(event.text, folder.add_text(event.text))
                    elif isinstance(event, Drawn):
                        bars.close()
                        with _writing(folder.folder):
                            made = folder.add_picture(event.picture, event.kept)
                        teller.drawn(made["kind"], folder.folder / made["image"])
                    elif isinstance(event, Noted):
                        folder.add_note(event.text)
                        teller.noted(event.text)
                    elif isinstance(event, Ended):
                        ended = event
        except UserError:
            if ended.why:  # the model came to an end first, and then says why it is a failure
                with _writing(folder.folder):
                    folder.finish(ended.why, ended.by_itself, ended.facts)
                print(f"stopped; what was drawn before is in {folder.folder}")
            raise
        with _writing(folder.folder):
            return folder.finish(ended.why, ended.by_itself, ended.facts)
    except KeyboardInterrupt:
        teller.end_line()
        if not folder.events:
            print("stopped before a plan or a picture was whole; nothing was saved")
            raise
        with _writing(folder.folder):
            folder.finish(BY_HAND, by_itself=False)
        print(f"stopped; the {len(folder.events)} plans, pictures and verdicts that were whole are in {folder.folder}")
        raise


class _Teller:
    """Prints steps: on a terminal letter by letter, elsewhere when a text is whole."""

    def __init__(self) -> None:
        self._by_letter = sys.stdout.isatty()
        self._written = 0  # characters of the text of now that are on the screen
        self._pictures = 0

    def letters(self, text: str) -> None:
        if self._by_letter:
            print(_line(text), end="", flush=True)
            self._written += len(text)

    def said(self, text: str, event: Mapping[str, Any]) -> None:
        if self._by_letter:
            print(_line(text[self._written :]), flush=True)
            self._written = 0
        if event["kind"] == "text":
            told = "" if self._by_letter else f" {_line(text)}"
            print(f"text:{told} (kept as it is; it cannot be read: {_line(event['unread'])})", flush=True)
        elif not self._by_letter:
            print(f"{event['kind']}: {_line(_in_words(event))}", flush=True)

    def drawn(self, kind: str, path: Path) -> None:
        self._pictures += 1
        print(f"{kind} {self._pictures} saved: {path}", flush=True)

    def noted(self, text: str) -> None:
        print(f"note: {_line(text)}", flush=True)

    def end_line(self) -> None:
        if self._written:
            print(flush=True)


class _Bars:
    """A bar for each picture; how many there will be, nobody knows."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._open = contextlib.ExitStack()
        self._bar: Bar | None = None
        self._number = 0

    def advance(self) -> None:
        if self._bar is None:
            self._number += 1
            self._bar = self._open.enter_context(progress(self._steps, f"drawing {self._number}"))
        self._bar.advance()

    def close(self) -> None:
        self._open.close()
        self._bar = None

    @contextlib.contextmanager
    def closing(self) -> Generator[None, None, None]:
        try:
            yield
        finally:
            self.close()


def _in_words(event: Mapping[str, Any]) -> str:
    """A plan or a verdict without the tags of the grammar."""
    if event["kind"] == "plan":
        return f"{event['ins']}; then there is: {event['des']}"
    text = f"the {event['on']} is " + ("correct" if event["ok"] else f"wrong: {'; '.join(event['issues'])}")
    text += f". Still to come: {'; '.join(event['deferred'])}" if event["deferred"] else ""
    return text + (f". To do: {event['refine']}" if event["refine"] else "")


def _line(text: str) -> str:
    """What a model wrote, without what a terminal would take for a command, in letters that the output has."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "replace").decode(encoding)


def check_asked(prompt: str) -> None:
    """Raises UserError for a prompt that cannot be drawn: an empty one, several lines, letters that are none."""
    if not prompt:
        raise UserError('the prompt is empty; say what to draw, such as "a red star"')
    in_one_line(prompt, "the prompt")
    check_prompt(prompt)


def _place(prompt: str, out: str | None, plan: bool) -> Path:
    """Where to write, checked before any work."""
    if out is None:
        name = re.sub(r"\W+", "-", prompt.lower())[:NAME_LENGTH].strip("-") or "picture"
        base, ending = Path(f"{name}-plan" if plan else name), "" if plan else ".png"
        numbered = (Path(f"{base}{more}{ending}") for more in ("", *(f"-{n}" for n in range(2, 10_000))))
        return next(path for path in numbered if not path.exists())
    path = Path(out)
    if not plan:
        check_place(path)
        return path
    if path.suffix.lower() in WRITABLE:
        raise UserError(f"{path}: found the name of a picture; expected that of a folder, for --plan saves several files")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: is there already; expected a new folder, or an empty one")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    return path


@contextlib.contextmanager
def _writing(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
