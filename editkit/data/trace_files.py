"""Plan traces on disk, in our form and in those of others.

* `traces.jsonl` with the pictures beside it in `images/`: ours, one trace a line.
* Parquet with a column `conversation`: what public trainers of BAGEL read (Interleaving-Reasoning-Generation,
  `multi_think_interleave_t2i_dataset.py`): a user turn, and an assistant turn of parts {type, content, need_loss, need_vae,
  need_vit}, pictures in base64.
* Edit pairs of (previous picture, instruction) -> picture, for any instruction editor.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import ValidationError

from editkit.data.examples import EditPair
from editkit.data.pictures import Picture, PictureError
from editkit.data.traces import (
    PREFIX,
    Inspection,
    NeedLoss,
    PlanStep,
    PlanTrace,
    TraceError,
    check_trace,
    inspection_text,
    plan_text,
    steps_of,
)
from editkit.errors import UserError
from editkit.files import write_whole
from editkit.recipe.schema import Section

FORMAT = 1
LINES, IMAGES = "traces.jsonl", "images"
ROWS_A_GROUP = 64  # of the Parquet file: a group with its pictures is held in memory
CONVERSATION = pa.schema(
    [
        ("conversation", pa.string()),
        ("key", pa.string()),
        ("finished", pa.bool_()),
        ("scene", pa.string()),
        ("licence", pa.string()),
        ("category", pa.string()),
        ("provenance", pa.string()),
    ]
)


class _Inspection(Section):
    ok: bool
    on: Literal["plan", "image"]
    issues: list[str]
    deferred: list[str]
    refine: str

    def seen(self) -> Inspection:
        return Inspection(self.ok, self.on, tuple(self.issues), tuple(self.deferred), self.refine)


class _NeedLoss(Section):
    plan: bool
    sketch: bool
    inspection: bool


class _Step(Section):
    ins: str
    des: str
    image: str | None
    inspect: _Inspection | None
    need_loss: _NeedLoss


class _Line(Section):
    format: int
    key: str
    prompt: str
    scene: dict[str, Any]
    steps: list[_Step]
    final: str | None
    licence: str
    category: str = ""
    provenance: str = ""


def write_traces(folder: Path, traces: Iterable[PlanTrace]) -> int:
    """Writes traces to `traces.jsonl` and their pictures, byte for byte, to `images/`; the lines come last, all or none.

    Returns:
        How many.

    Raises:
        TraceError: one breaks a rule, or its key was there before.
    """
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    lines: dict[str, str] = {}
    for trace in traces:
        check_trace(trace)
        if trace.key in lines:
            raise TraceError(trace.key, 0, "found this key twice; expected another one for each trace")
        lines[trace.key] = json.dumps(_to_line(folder, trace), ensure_ascii=False)
    write_whole(folder / LINES, "".join(f"{line}\n" for line in lines.values()))
    return len(lines)


def _to_line(folder: Path, trace: PlanTrace) -> dict[str, Any]:
    steps = []
    for n, step in enumerate(trace.steps, 1):
        name = None
        if step.sketch is not None:
            name = f"{IMAGES}/{trace.key}-{n:02d}.{_format(step.sketch, trace.key, n)}"
            if step.sketch.path is None or Path(step.sketch.path) != folder / name:  # else it lies there
                (folder / name).write_bytes(step.sketch.read_bytes())
        seen = asdict(step.inspection) if step.inspection else None
        losses = asdict(step.need_loss)
        steps.append({"ins": step.ins, "des": step.des, "image": name, "inspect": seen, "need_loss": losses})
    return {
        "format": FORMAT,
        "key": trace.key,
        "prompt": trace.prompt,
        "scene": dict(trace.scene),
        "steps": steps,
        "final": steps[-1]["image"] if trace.final is not None else None,
        "licence": trace.licence,
        "category": trace.category,
        "provenance": trace.provenance,
    }


def _format(picture: Picture, key: str, step: int) -> str:
    """ "png", "jpeg" ...: the bytes stay as they are."""
    try:
        return str(Image.open(io.BytesIO(picture.read_bytes())).format).lower()
    except (PictureError, OSError) as error:
        raise TraceError(key, step, f"found a picture that cannot be read ({error})") from error


def read_traces(folder: Path) -> Iterator[PlanTrace]:
    """Reads what `write_traces` wrote; pictures are opened when asked for, but must be there.

    Raises:
        UserError: with the line; of a trace that breaks a rule with its key, step and reason.
    """
    path = folder / LINES
    if not path.is_file():
        raise UserError(f"{folder}: found no {LINES}; expected a folder of plan traces")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            yield _from_line(folder, line, f"{path}:{number}")


def _from_line(folder: Path, line: str, where: str) -> PlanTrace:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: found no JSON ({error.msg}); expected one trace a line") from error
    newer = found.get("format") if isinstance(found, dict) else None
    if isinstance(newer, int) and newer > FORMAT:
        raise UserError(f"{where}: found format {newer}; this editkit knows {FORMAT}: take a newer one")
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        step = first["loc"][1] + 1 if first["loc"][:1] == ("steps",) and isinstance(first["loc"][1], int) else 0
        inner = ".".join(str(p) for p in first["loc"][2 if step else 0 :])
        raise TraceError(where, step, f"{inner or 'line'}: {first['msg'].lower()}") from error
    steps = []
    for n, s in enumerate(read.steps, 1):
        sketch = _picture(folder, s.image, read.key, n) if s.image else None
        losses = NeedLoss(s.need_loss.plan, s.need_loss.sketch, s.need_loss.inspection)
        steps.append(PlanStep(s.ins, s.des, sketch, s.inspect.seen() if s.inspect else None, losses))
    final = _picture(folder, read.final, read.key, len(steps)) if read.final else None
    about = (read.scene, read.licence, read.category, read.provenance)
    return check_trace(PlanTrace(read.key, read.prompt, tuple(steps), final, *about))


def _picture(folder: Path, name: str, key: str, step: int) -> Picture:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
        raise TraceError(key, step, f'found the picture "{name}"; expected one inside the folder of the traces')
    if not (folder / name).is_file():
        raise TraceError(key, step, f"found no picture {folder / name}; expected the file that the trace names")
    return Picture(path=folder / name)


def to_conversation(trace: PlanTrace) -> list[dict[str, Any]]:
    """The turns that BAGEL trainers read. A picture is context (need_vae, need_vit) where something follows that looks at it.

    Raises:
        TraceError: the trace breaks a rule.
    """
    check_trace(trace)
    parts: list[dict[str, Any]] = []
    for step in trace.steps:
        parts.append({"type": "text", "content": plan_text(step), "need_loss": step.need_loss.plan})
        if step.sketch is not None:
            content = base64.b64encode(step.sketch.read_bytes()).decode("ascii")
            flags = {"need_loss": step.need_loss.sketch, "need_vae": True, "need_vit": True}
            parts.append({"type": "image", "content": content, **flags})
        if step.inspection is not None:
            text = inspection_text(step.inspection)
            parts.append({"type": "text", "content": text, "need_loss": step.need_loss.inspection})
    if parts[-1]["type"] == "image":
        parts[-1] |= {"need_vae": False, "need_vit": False}
    return [
        {"role": "user", "content": PREFIX + trace.prompt, "need_loss": False},
        {"role": "assistant", "content": parts},
    ]


def from_conversation(
    turns: Any,
    key: str,
    *,
    finished: bool | None = None,
    scene: Mapping[str, Any] | None = None,
    licence: str = "",
    category: str = "",
    provenance: str = "",
) -> PlanTrace:
    """A trace from such turns.

    Args:
        turns: of the user and of the assistant.
        key: of the trace.
        finished: whether the last picture is the final one; None = if it was not rejected and nothing is still to come.
        scene, licence, category, provenance: see `PlanTrace`.

    Raises:
        TraceError: the turns are of another shape, or their texts of another grammar.
    """
    shape = "found other turns; expected one of the user with text, then one of the assistant with a list of parts"
    if not isinstance(turns, list) or [t.get("role") if isinstance(t, dict) else None for t in turns] != ["user", "assistant"]:
        raise TraceError(key, 0, shape)
    prompt, parts = turns[0].get("content"), turns[1].get("content")
    if not isinstance(prompt, str) or not isinstance(parts, list) or not all(isinstance(p, dict) for p in parts):
        raise TraceError(key, 0, shape)
    steps = steps_of([_part(part, key, n) for n, part in enumerate(parts, 1)], key)
    losses = _losses(parts)
    steps = [replace(step, need_loss=need) for step, need in zip(steps, losses, strict=True)]
    seen = steps[-1].inspection if steps else None
    if finished is None:
        finished = seen is None or (seen.ok and not seen.deferred)
    final = steps[-1].sketch if steps and finished else None
    about = (scene or {}, licence, category, provenance)
    return check_trace(PlanTrace(key, prompt.removeprefix(PREFIX), tuple(steps), final, *about))


def _part(part: Mapping[str, Any], key: str, n: int) -> str | Picture:
    kind, content = part.get("type"), part.get("content")
    if kind not in ("text", "image") or not isinstance(content, str):
        raise TraceError(key, 0, f"found part {n} of type {kind!r}; expected text, or image with its content in base64")
    if kind == "text":
        return content
    try:
        picture = Picture(data=base64.b64decode(content, validate=True), label=f"part {n} of {key}")
        picture.size()
    except (ValueError, PictureError) as error:
        raise TraceError(key, 0, f"found part {n} with a picture that cannot be read ({error})") from error
    return picture


def _losses(parts: Sequence[Mapping[str, Any]]) -> list[NeedLoss]:
    """The flags of each step; where one is not stated, what the trainers take: texts are learned and pictures are not."""
    found: list[NeedLoss] = []
    for part in parts:
        if part["type"] == "image":
            found[-1] = replace(found[-1], sketch=bool(part.get("need_loss", False)))
        elif part["content"].startswith("<ins>"):
            found.append(NeedLoss(plan=bool(part.get("need_loss", True))))
        else:
            found[-1] = replace(found[-1], inspection=bool(part.get("need_loss", True)))
    return found


def write_conversations(path: Path, traces: Iterable[PlanTrace]) -> int:
    """Writes a Parquet file for BAGEL trainers; beside `conversation` stands what it cannot say. Returns how many."""
    number, rows = 0, []
    with pq.ParquetWriter(path, CONVERSATION) as writer:
        for trace in traces:
            scene, conversation = json.dumps(dict(trace.scene)), json.dumps(to_conversation(trace))
            facts = {"key": trace.key, "finished": trace.final is not None, "scene": scene, "licence": trace.licence}
            facts |= {"category": trace.category, "provenance": trace.provenance}
            rows.append({"conversation": conversation, **facts})
            if len(rows) == ROWS_A_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, CONVERSATION))
                number, rows = number + len(rows), []
        writer.write_table(pa.Table.from_pylist(rows, CONVERSATION))
    return number + len(rows)


def read_conversations(path: Path) -> Iterator[PlanTrace]:
    """Reads such a file, ours or another's with texts in this grammar, a row group at a time.

    Raises:
        UserError: it has no conversations; of a trace that breaks a rule with its key, step and reason.
    """
    with pq.ParquetFile(path) as file:
        names = set(file.schema_arrow.names)
        if "conversation" not in names:
            raise UserError(f'{path}: found the columns {", ".join(sorted(names))}; expected "conversation"')
        number = 0
        for batch in file.iter_batches(ROWS_A_GROUP, columns=sorted(names & set(CONVERSATION.names))):
            for row in batch.to_pylist():
                key = row.get("key") or f"row-{number:06d}"
                number += 1
                try:
                    turns, scene = json.loads(row["conversation"]), json.loads(row.get("scene") or "{}")
                except (json.JSONDecodeError, TypeError) as error:
                    raise TraceError(key, 0, f"found a conversation or a scene that is no JSON ({error})") from error
                about = {name: row.get(name) or "" for name in ("licence", "category", "provenance")}
                yield from_conversation(turns, key, finished=row.get("finished"), scene=scene, **about)


def to_edit_pairs(trace: PlanTrace) -> list[EditPair]:
    """What an instruction editor learns from a trace: (previous picture, instruction) -> picture, of all steps but the first.

    A step that mends a fault starts from the faulty draft, and its instructions are the correction and its plan. A picture that
    is not to be learned is a source only.

    Raises:
        TraceError: the trace breaks a rule.
    """
    check_trace(trace)
    pairs: list[EditPair] = []
    source: PlanStep | None = None
    refine = ""
    for n, step in enumerate(trace.steps, 1):
        if step.sketch is not None and source is not None and source.sketch is not None and step.need_loss.sketch:
            pairs.append(
                EditPair(
                    key=f"{trace.key}-{n:02d}",
                    source=source.sketch,
                    target=step.sketch,
                    instructions=tuple(dict.fromkeys(text for text in (refine, step.ins) if text)),
                    category="refine" if refine else "step",
                    source_caption=source.des,
                    target_caption=step.des,
                    licence=trace.licence,
                )
            )
        if step.sketch is not None:
            source = step
        refine = step.inspection.refine if step.inspection is not None else ""
    return pairs
