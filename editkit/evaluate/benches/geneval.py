"""GenEval in its official forms: the prompt file, the folder of pictures, the results, the summary (arXiv:2310.11513).

    evaluation_metadata.jsonl -> write_prompt_folders -> 00000/metadata.jsonl, 00000/samples/0000.png, ...
    score_folder -> results.jsonl -> summarise (see `editkit.evaluate.benches.geneval_summary`)

Detectors are plug-ins (`Detector`). The official figures come from an mmdet checkpoint that is not among them: figures of
another detector are to be named with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from editkit.data.pictures import Picture
from editkit.errors import UserError
from editkit.evaluate.benches.geneval_rules import COLOURS, NMS_IOU, RELATIONS, Detection, judge, usable
from editkit.progress import progress

SAMPLES = 4  # pictures a prompt in the published figures


class Detector(Protocol):
    """What looks at the pictures."""

    @property
    def name(self) -> str:
        """As reports call it, with the weights that it uses."""
        ...

    @property
    def classes(self) -> frozenset[str]:
        """All that it can find."""
        ...

    def detect(self, image: Image.Image) -> list[Detection]:
        """Every object, of any confidence."""
        ...

    def colours(self, image: Image.Image, detections: Sequence[Detection]) -> list[str]:
        """The colour of each, one of GenEval's ten."""
        ...


@dataclass(frozen=True, slots=True)
class PromptFolder:
    """One prompt of a bench folder with its pictures in the order of their numbers."""

    folder: Path
    asked: Mapping[str, Any]
    samples: tuple[Path, ...]


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Reads a prompt file such as the official `evaluation_metadata.jsonl`, one JSON object a line.

    Returns:
        For each prompt `tag`, `include` and, where there is one, `exclude` (entries of `class`, `count`, `color`, `position` =
        [relation, index of an earlier entry]), `prompt`; other keys as they are.

    Raises:
        UserError: with the line and what is wrong with it.
    """
    return [_parse(line, where) for where, line in prompt_lines(path, "GenEval", "evaluation_metadata.jsonl")]


def prompt_lines(path: Path, bench: str, example: str) -> list[tuple[str, str]]:
    """The lines of a prompt file that has an object a line, each with its place for messages.

    Args:
        path: of the file.
        bench: its name, for messages.
        example: what the bench calls its own file.

    Raises:
        UserError: it cannot be read, or has no line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a {bench} prompt file ({error})") from error
    found = [(f"{path}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{path}: found no prompt; expected one JSON object a line, as in {example}")
    return found


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: found no JSON ({error.msg}); expected one object a line") from error
    if not isinstance(asked, dict):
        raise UserError(f"{where}: found {type(asked).__name__}; expected an object with tag, include and prompt")
    for key, kind in (("tag", str), ("prompt", str), ("include", list)):
        if not isinstance(asked.get(key), kind) or not asked[key]:
            raise UserError(f'{where}: found {key} = {asked.get(key)!r}; expected a {kind.__name__} "{key}" that is not empty')
    if not isinstance(asked.get("exclude", []), list):
        raise UserError(f"{where}: found exclude = {asked['exclude']!r}; expected a list")
    for key in ("include", "exclude"):
        for i, entry in enumerate(asked.get(key, ())):
            problem = _problem(entry, i)
            if problem:
                raise UserError(f"{where}: {key}[{i}]: {problem}")
    return asked


def _problem(entry: Any, index: int) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
        return f"found {entry!r}; expected an object with a class"
    count = entry.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return f"found count = {count!r}; expected a whole number from 1"
    if entry.get("color", COLOURS[0]) not in COLOURS:
        return f"found color = {entry['color']!r}; expected one of {', '.join(COLOURS)}"
    if "position" in entry:
        position = entry["position"]
        if not isinstance(position, list) or len(position) != 2 or position[0] not in RELATIONS:
            return f"found position = {position!r}; expected [one of {', '.join(RELATIONS)}; an index]"
        if not isinstance(position[1], int) or not 0 <= position[1] < index:
            return f"found a position beside entry {position[1]!r}; expected the index of an earlier one"
    return ""


def write_prompt_folders(out: Path, prompts: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Makes `00000/metadata.jsonl` and an empty `00000/samples` for each prompt; returns the `samples` folders in order."""
    folders = []
    for i, asked in enumerate(prompts):
        samples = out / f"{i:05d}" / "samples"
        samples.mkdir(parents=True, exist_ok=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
        folders.append(samples)
    return folders


def write_sample(samples: Path, number: int, image: Image.Image) -> Path:
    """Saves picture `number` of a prompt where the official scripts look for it."""
    path = samples / f"{number:04d}.png"
    image.save(path)
    return path


def read_folder(folder: Path) -> list[PromptFolder]:
    """The prompts and pictures of a bench folder, whoever wrote it.

    Raises:
        UserError: no prompt is there, or one lacks its metadata or its pictures.
    """
    numbered = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.isdecimal()) if folder.is_dir() else []
    if not numbered:
        raise UserError(f"{folder}: found no folder such as 00000; expected GenEval's layout, NNNNN/samples/NNNN.png")
    found = []
    for one in numbered:
        prompts = read_prompts(one / "metadata.jsonl")
        samples = tuple(sorted((one / "samples").glob("*.png")))
        if len(prompts) != 1:
            raise UserError(f"{one / 'metadata.jsonl'}: found {len(prompts)} lines; expected the one of this prompt")
        if not samples:
            raise UserError(f"{one / 'samples'}: found no picture; expected 0000.png and further ones")
        found.append(PromptFolder(one, prompts[0], samples))
    return found


def read_samples(folder: Path, samples: int = 0) -> list[PromptFolder]:
    """A bench folder with as many pictures of every prompt.

    Args:
        folder: see `read_folder`.
        samples: how many, the first ones; 0 = all that are there.

    Raises:
        UserError: see `read_folder`; or a prompt has fewer pictures, as where the drawing was stopped.
    """
    prompts = read_folder(folder)
    most = max(prompts, key=lambda p: len(p.samples))
    wanted = samples or len(most.samples)
    for prompt in prompts:
        if len(prompt.samples) < wanted:
            beside = "--samples asks for" if samples else f"{most.folder.name} has"
            raise UserError(
                f"{prompt.folder / 'samples'}: found {len(prompt.samples)} pictures, and {beside} {wanted}; expected as many "
                "of every prompt, so draw the rest, or score fewer with --samples"
            )
    return [replace(prompt, samples=prompt.samples[:wanted]) for prompt in prompts]


def classes_of(prompts: Iterable[Mapping[str, Any]]) -> set[str]:
    """All that the lines of a prompt file ask for."""
    return {entry["class"] for asked in prompts for entry in (*asked["include"], *asked.get("exclude", ()))}


def check_classes(prompts: Iterable[Mapping[str, Any]], detector: Detector, where: str) -> None:
    """Looks whether a detector can find what the lines of a prompt file ask for.

    Args:
        prompts: the lines.
        detector: what will look.
        where: they come from, for the message.

    Raises:
        UserError: it cannot, which would be no failure of a model.
    """
    unknown = classes_of(prompts) - detector.classes
    if unknown:
        some = ", ".join(sorted(unknown)[:5])
        raise UserError(f"{where}: found prompts on {some}, which {detector.name} does not know; choose another detector")


def score_folder(folder: Path, detector: Detector, nms_iou: float = NMS_IOU, samples: int = 0) -> list[dict[str, Any]]:
    """Judges the pictures of a bench folder, `samples` of each prompt; see `read_samples`.

    Returns:
        A row a picture, with the keys of the official results (filename, tag, prompt, correct, reason, metadata and details as
        JSON) and `atoms`, [right, asked].
    """
    prompts = read_samples(folder, samples)
    check_classes((p.asked for p in prompts), detector, str(folder))
    rows = []
    with progress(sum(len(p.samples) for p in prompts), f"looking with {detector.name}") as bar:
        for row in _rows(prompts, folder, detector, nms_iou):
            rows.append(row)
            bar.advance(1)
    return rows


def _rows(prompts: Sequence[PromptFolder], folder: Path, detector: Detector, nms_iou: float) -> Iterator[dict[str, Any]]:
    for prompt in prompts:
        asked = prompt.asked
        for path in prompt.samples:
            image = Picture(path).open()
            found = detector.detect(image)
            verdict = judge(asked, found, lambda chosen, image=image: detector.colours(image, chosen), nms_iou)
            boxes = {name: [[*d.box, d.score] for d in those] for name, those in usable(found, asked["tag"], nms_iou).items()}
            yield {
                "filename": path.relative_to(folder).as_posix(),
                "tag": asked["tag"],
                "prompt": asked["prompt"],
                "correct": verdict.correct,
                "reason": verdict.reason,
                "metadata": json.dumps(asked),
                "details": json.dumps(boxes),
                "atoms": [sum(a.right for a in verdict.atoms), len(verdict.atoms)],
            }


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Saves the rows as the official `results.jsonl`."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_results(path: Path) -> list[dict[str, Any]]:
    """Rows of a `results.jsonl`, ours or the official one.

    Raises:
        UserError: a line lacks what the summary needs.
    """
    rows = []
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({**row, "tag": str(row["tag"]), "prompt": str(row["prompt"]), "correct": bool(row["correct"])})
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}:{n}: found no result ({error}); expected the keys filename, tag, prompt, correct"
            ) from error
    return rows
