"""Plan traces of real scenes: `builder = "plan_refine_taught"` ("Think in Strokes, Not Pixels", arXiv:2604.04746).

plan: a chat model turns a prompt into a scene graph, a growing chain of sub-scenes or a route with a detour, and instructions.
sketch: an instruction editor draws every step from the picture before, the first from an empty canvas. inspect: a chat model
that sees judges; of multi-turn traces it keeps those whose every step was drawn as planned, of the others it writes the
critique of one step. correct: the editor follows the critique of a drawing. confirm: the same judge looks again.

How many verdicts are "wrong" cannot be asked for here; the subsets come in the paper's proportions, their verdicts as they are.
Plans to judge are the teacher's own, or with `sampled` those of a half-trained model (see `editkit.build.self_sampled` for the
folder; its `scene` may be empty), as in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from PIL import Image

from editkit.build.editor import EditorModel, InstructionEditor
from editkit.build.generated import GeneratedExamples
from editkit.build.proportions import largest_remainder, numbered
from editkit.build.rows import Row, image
from editkit.build.self_sampled import fingerprint
from editkit.build.stages import DROPPED, Gathering, Stage
from editkit.build.teachers.captions import NO_REPLY, Captions
from editkit.build.teachers.inspector import Asked, InspectorOptions, inspections
from editkit.build.teachers.planner import FIELDS, PlannerOptions, question, steps_of_reply
from editkit.build.teachers.protocol import key_of
from editkit.build.trace_stages import DRAFTS, TRACES, step_to_json
from editkit.data.pictures import Picture, png_bytes
from editkit.data.read import plan_trace
from editkit.data.spec import DataSpec
from editkit.data.trace_files import read_traces
from editkit.data.traces import Inspection, NeedLoss, PlanTrace, TraceError, check_trace
from editkit.errors import UserError
from editkit.models.chat.endpoint import Questions
from editkit.models.locate import version_of
from editkit.recipe.schema import Fraction, NonNegativeInt, PositiveInt, Section

VERSION = 1
MULTI_TURN, TEXT_SIDE, IMAGE_SIDE = "multi-turn", "text-side", "image-side"
SUBSETS: Mapping[str, int] = {MULTI_TURN: 32_012, TEXT_SIDE: 15_201, IMAGE_SIDE: 15_000}  # samples of the paper
DETOURS = ("attribute change", "swap", "removal")
CANVAS = "#b4b4b4"  # what the first step is drawn on, for an editor starts from a picture
CONTEXT, INSPECTED = NeedLoss(False, False, False), NeedLoss(False, False, True)
WORDS = {True: {TEXT_SIDE: "correct", IMAGE_SIDE: "aligned"}, False: {TEXT_SIDE: "wrong", IMAGE_SIDE: "misaligned"}}


class EditorOptions(EditorModel):
    """The keys of `[build.render]`."""

    resolution: PositiveInt = 512  # px, square


class Options(Section):
    """The keys of `[build]` behind `builder`."""

    train: NonNegativeInt  # prompts; fewer traces come out
    test: NonNegativeInt
    seed: int = 0
    detours: Fraction = 0.6  # of the multi-turn traces: routes with an attribute change, a swap or a removal
    sampled: str = ""  # a folder of traces that a half-trained model sampled, for the text-side subset of the training split
    propose: PlannerOptions
    render: EditorOptions
    inspect: InspectorOptions


@dataclass(frozen=True)
class Plan:
    """The stage "plan"."""

    options: Options
    captions: Captions
    sampled_sha256: str
    licence: str
    name = "plan"
    schema: pa.Schema = DRAFTS
    processes = 1  # limits of rate hold for one process
    accelerated = False
    releases = False

    @property
    def part_size(self) -> int:
        return self.options.propose.part_size

    def identity(self) -> Mapping[str, Any]:
        said = self.options.propose.model_dump(include={"model", "prompt", "temperature", "max_tokens"})
        numbers = self.options.model_dump(include={"train", "test", "seed", "detours"})
        sums = {"captions_sha256": self.captions.sha256, "sampled_sha256": self.sampled_sha256}
        return {"name": "chat", "version": VERSION, "proportions": dict(SUBSETS), **said, **numbers, **sums}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        counts = {"train": self.options.train, "test": self.options.test}
        order = {split: numbered(total, SUBSETS) for split, total in counts.items()}
        traces = list(read_traces(Path(self.options.sampled))) if self.options.sampled else []
        Random(f"taught/{self.options.seed}/sampled").shuffle(traces)
        questions = Questions(self.options.propose, "[build.propose]")
        return partial(self._rows, questions, self.captions.reader(), order, traces)

    def _rows(
        self,
        questions: Questions,
        read: Callable[[Row], tuple[str, str]],
        order: Mapping[str, Sequence[tuple[str, int]]],
        traces: Sequence[PlanTrace],
        rows: Sequence[Row],
    ) -> list[Row]:
        made: dict[int, Row] = {}
        asked: dict[int, tuple[str, str, str, str]] = {}  # place -> parent, prompt, subset, route
        for place, row in enumerate(rows):
            subset, number = order[row["split"]][row["index"]]
            if subset == TEXT_SIDE and traces and row["split"] == "train":
                made[place] = self._sampled(row, traces[number])
                continue
            rng = Random(f"taught/{self.options.seed}/{key_of(row)}")
            route = rng.choice(DETOURS) if subset == MULTI_TURN and rng.random() < self.options.detours else "additive"
            asked[place] = (*read(row), subset, route)
        bodies = [question(self.options.propose, self.options.seed, prompt, route) for _, prompt, _, route in asked.values()]
        for (place, about), reply in zip(asked.items(), questions.answers(bodies, FIELDS), strict=True):
            served = {"served_by": reply.model, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
            made[place] = self._planned(rows[place], *about, reply.answer, served)
        return [made[place] for place in range(len(rows))]

    def _planned(
        self, row: Row, parent: str, prompt: str, subset: str, route: str, answer: Mapping[str, str] | None, served: Row
    ) -> Row:
        plans, graph = steps_of_reply(answer) if answer is not None else ([], "")
        if subset != MULTI_TURN and plans:  # the critique is of one step; nothing behind it is drawn
            plans = plans[: Random(f"taught/{self.options.seed}/{key_of(row)}/step").randint(1, len(plans))]
        losses = NeedLoss() if subset == MULTI_TURN else CONTEXT
        steps = [step_to_json(ins, des, None, losses) for ins, des in plans]
        came = {"parent": parent, "teacher": {**self.identity(), **served}, "route": route, "licence": self.licence}
        return {
            "key": key_of(row), "prompt": prompt, "category": f"{subset}: {route}" if subset == MULTI_TURN else subset,
            "steps": json.dumps(steps), "finished": subset == MULTI_TURN, "scene": json.dumps({"graph": graph}),
            "licence": self.licence, "provenance": json.dumps(came), DROPPED: "" if plans else NO_REPLY,
        }  # fmt: skip

    def _sampled(self, row: Row, trace: PlanTrace) -> Row:
        drawn = [step for step in trace.steps if step.sketch is not None]
        last = Random(f"taught/{self.options.seed}/{key_of(row)}/step").randint(1, max(1, len(drawn)))
        steps = [step_to_json(s.ins, s.des, None, CONTEXT, picture=str(s.sketch.path)) for s in drawn[:last] if s.sketch]
        licence = trace.licence or self.licence
        came = {"parent": trace.key, "teacher": {"name": "self-sampled", "sha256": self.sampled_sha256}, "licence": licence}
        return {
            "key": key_of(row), "prompt": trace.prompt, "category": TEXT_SIDE, "steps": json.dumps(steps), "finished": False,
            "scene": json.dumps(dict(trace.scene)), "licence": licence, "provenance": json.dumps(came),
            DROPPED: "" if steps else "nothing was drawn",
        }  # fmt: skip


@dataclass(frozen=True)
class Sketch:
    """The stages "sketch" and "correct": draws the steps that have no picture yet, each from the picture before it."""

    options: EditorOptions
    seed: int
    model_version: str
    name: str
    schema: pa.Schema = TRACES
    processes = 0
    accelerated = True
    releases = False
    part_size = 0

    def identity(self) -> Mapping[str, Any]:
        return {"version": VERSION, "seed": self.seed, "model_sha256": self.model_version, **self.options.model_dump()}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        editor = InstructionEditor(self.options, self.model_version)
        return lambda rows: [self._drawn(editor, row) for row in rows]

    def _drawn(self, editor: InstructionEditor, row: Row) -> Row:
        side = self.options.resolution
        before = Image.new("RGB", (side, side), CANVAS)
        came = json.loads(row["provenance"])
        steps = []
        for number, step in enumerate(_steps(row), 1):
            if step["image"] is None:
                drawn = editor.edit(before, step["ins"], Random(f"{self.name}/{self.seed}/{row['key']}/{number}"))
                step = {**step, "image": image(png_bytes(drawn.picture))}
                numbers = {"step": number, "seed": drawn.seed, "guidance": drawn.guidance}
                came["drawn"] = [*came.get("drawn", []), numbers]
                came["renderer"] = {"name": editor.name, "version": VERSION, **editor.about}
            before = Picture(data=step["image"]["bytes"]).open()
            steps.append(step)
        return {**row, "steps": steps, "provenance": json.dumps(came), DROPPED: ""}


def _steps(row: Row) -> list[Row]:
    """The steps of a row, as they are planned or as they are drawn already."""
    if not isinstance(row["steps"], str):
        return row["steps"]
    found = []
    for step in json.loads(row["steps"]):
        picture = image(Picture(path=step["picture"]).read_bytes()) if step["picture"] else None
        found.append({**{name: step[name] for name in ("ins", "des", "inspection", "need_loss")}, "image": picture})
    return found


@dataclass(frozen=True)
class Inspect:
    """The stages "inspect" and "confirm": what a model that sees says of single steps."""

    options: InspectorOptions
    seed: int
    name: str
    schema: pa.Schema = TRACES
    processes = 1  # limits of rate hold for one process
    accelerated = False
    releases = False
    part_size = 0

    def identity(self) -> Mapping[str, Any]:
        asked = self.options.model_dump(include={"model", "prompt", "temperature", "max_tokens", "side"})
        return {"version": VERSION, "seed": self.seed, **asked}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return partial(self._rows, Questions(self.options, "[build.inspect]"))

    def _rows(self, questions: Questions, rows: Sequence[Row]) -> list[Row]:
        traces = [plan_trace({name: row[name] for name in TRACES.names if name != DROPPED}) for row in rows]
        asked = [Asked(trace, step, on) for trace in traces for step, on in self._open_questions(trace)]
        found = iter(inspections(questions, self.options, self.seed, asked))
        made = []
        for row, trace in zip(rows, traces, strict=True):
            verdicts = [(step, next(found)) for step, _ in self._open_questions(trace)]
            made.append(self._row(row, trace, verdicts))
        return made

    def _open_questions(self, trace: PlanTrace) -> list[tuple[int, str]]:
        """(step, from 1, and whether its plan or its picture is asked about) of all that is to be judged."""
        subset, last = trace.category.partition(":")[0], len(trace.steps)
        if self.name == "confirm":
            return [(last, "image")] if trace.steps[-1].inspection is None and not trace.category.startswith(MULTI_TURN) else []
        if subset == MULTI_TURN:
            return [(step, "image") for step in range(1, last + 1)]
        return [(last, "plan" if subset == TEXT_SIDE else "image")]

    def _row(self, row: Row, trace: PlanTrace, verdicts: Sequence[tuple[int, Inspection | None]]) -> Row:
        steps = [dict(step) for step in row["steps"]]
        subset = trace.category.partition(":")[0]
        category, finished, dropped = trace.category, row["finished"], ""
        if any(seen is None for _, seen in verdicts):
            dropped = "no usable verdict"
        elif subset == MULTI_TURN:
            dropped = "" if all(seen.ok for _, seen in verdicts if seen) else "a step was not drawn as planned"
        else:
            for step, seen in verdicts:
                assert seen is not None
                steps[step - 1]["inspection"] = asdict(seen)
                if self.name == "confirm":
                    dropped = "" if seen.ok else "the correction did not help"
                else:
                    steps[step - 1]["need_loss"] = asdict(INSPECTED)
                    category = f"{subset}, {WORDS[seen.ok][subset]}"
                finished = subset == IMAGE_SIDE and seen.ok and not seen.deferred
                if subset == IMAGE_SIDE and not seen.ok and not dropped:
                    again = {"ins": seen.refine, "des": steps[step - 1]["des"], "image": None, "inspection": None}
                    steps.append({**again, "need_loss": asdict(NeedLoss())})
        said = {**row, "steps": steps, "category": category, "finished": finished, DROPPED: dropped}
        return said if dropped or self.name != "confirm" else {**said, DROPPED: _broken(said)}


def _broken(row: Row) -> str:
    """The rule that a finished row breaks; "" = none."""
    try:
        check_trace(plan_trace({name: row[name] for name in TRACES.names if name != DROPPED}))
    except TraceError as error:
        return f"grammar: {error.why}"
    return ""


class PlanRefineTaughtBuilder(GeneratedExamples):
    """Plan traces by the stages that the module names."""

    builder = "plan_refine_taught"
    kinds = ("plan_traces",)
    Options = Options

    def stages(self, spec: DataSpec) -> Sequence[Stage | Gathering]:
        if not spec.licence:
            raise UserError(f'{spec.name}: found no licence; say under which one the drawn pictures are: licence = "..."')
        options = self._options
        self._credits = {spec.licence: spec.credit}
        sampled = self._looked_at(Path(options.sampled)) if options.sampled else ""
        captions = Captions.of(options.propose.captions, self.counts())
        version = version_of(options.render.model)
        stages: list[Stage] = [
            Plan(options, captions, sampled, spec.licence),
            Sketch(options.render, options.seed, version, "sketch"),
            Inspect(options.inspect, options.seed, "inspect"),
            Sketch(options.render, options.seed, version, "correct"),
            Inspect(options.inspect, options.seed, "confirm"),
        ]
        self._teachers = {stage.name: dict(stage.identity()) for stage in stages}
        return stages

    def _looked_at(self, folder: Path) -> str:
        sha256, found = fingerprint(folder), sum(1 for _ in read_traces(folder))
        needed = largest_remainder(self._options.train, SUBSETS)[TEXT_SIDE]
        if found < needed:
            raise UserError(
                f"{folder}: found {found} traces; [build] train = {self._options.train} needs {needed}: "
                "sample more, or ask for fewer"
            )
        return sha256
