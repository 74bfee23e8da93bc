"""Plan traces: `builder = "plan_refine"` in a data spec ("Think in Strokes, Not Pixels", arXiv:2604.04746, section on data).

plan: from a scene graph to a growing chain, or a route with a detour, to instructions and descriptions; and to the critique
of single steps. sketch: every step is drawn. filter: everything is read back and compared. In the scenes world all three are
exact.

The critiques of plans come from a symbolic critic. What it looks at are either faults planted into exact plans, or the steps
that a half-trained model sampled (see `editkit.build.self_sampled`), which is the paper's way: train on the multi-turn traces,
sample, build again. The test split is always planted, so that it is the same whatever a model was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from editkit.build.generated import GeneratedExamples
from editkit.build.proportions import largest_remainder, numbered
from editkit.build.rows import Row, image
from editkit.build.self_sampled import Judged, Sampled, fingerprint
from editkit.build.stages import DROPPED, Gathering, Stage
from editkit.build.teachers.protocol import key_of
from editkit.build.trace_stages import DRAFTS, DRAWN, ReadBack, step_to_json, things_of
from editkit.data.pictures import Picture, png_bytes
from editkit.data.spec import DataSpec
from editkit.data.trace_files import IMAGES
from editkit.errors import UserError
from editkit.lab.scene_art import CREDITS
from editkit.lab.scene_traces import CELLS, CONTEXT, INSPECTED, TEXT_RIGHT, TEXT_WRONG, Draft, RouteOptions, draw_trace
from editkit.lab.scenes import Scene, render
from editkit.recipe.schema import Fraction, NonNegativeInt, Section

VERSION = 1
PART = 50  # traces


class SampledOptions(Section):
    """Where the trajectories of a half-trained model lie."""

    sampled: str  # a folder with traces.jsonl, as `editkit.data.trace_files` writes it


class Options(Section):
    """The keys of `[build]` behind `builder`."""

    train: NonNegativeInt  # traces; the paper has 62,213
    test: NonNegativeInt  # of new scenes, in new phrasings
    size: Literal[32, 64] = 64  # px, the side of the square pictures
    seed: int = 0
    detours: Fraction = 0.6  # of the multi-turn traces: routes with a change of colour or place, a removal or a swap
    learn_astray: bool = True  # whether the step that sets out on a detour is learned; else only its mending is
    # Which plans are judged for the text-side subset: "symbolic" plants faults into exact ones; { sampled = "FOLDER" } takes
    # those that a model wrote which was trained on the multi-turn traces.
    critiques: Literal["symbolic"] | SampledOptions = "symbolic"


@dataclass(frozen=True)
class PlanTraces:
    """The stage "plan": all that will be drawn and said."""

    options: Options
    sampled_sha256: str  # of the folder of trajectories; "" = there is none
    licence: str  # of sampled pictures that state none
    name = "plan"
    schema: pa.Schema = DRAFTS
    processes = 0
    accelerated = False
    releases = False
    part_size = PART

    def identity(self) -> Mapping[str, Any]:
        said = {"name": "scenes", "version": VERSION, "proportions": dict(CELLS), "sampled_sha256": self.sampled_sha256}
        return {**said, **self.options.model_dump(mode="json", exclude={"size", "critiques"})}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        options = self.options
        sampled = None
        if isinstance(options.critiques, SampledOptions):
            sampled = Sampled(Path(options.critiques.sampled), options.seed, "train")
        order = {split: numbered(total, CELLS) for split, total in (("train", options.train), ("test", options.test))}
        routes = RouteOptions(options.detours, options.learn_astray)

        def make(row: Row) -> Row:
            cell, number = order[row["split"]][row["index"]]
            if sampled is not None and row["split"] == "train" and cell in (TEXT_RIGHT, TEXT_WRONG):
                return self._from_sample(row, sampled.take(cell, number), cell)
            return self._from_scene(row, draw_trace(options.seed, row["split"], row["index"], cell, routes))

        return lambda rows: [make(row) for row in rows]

    def _from_scene(self, row: Row, draft: Draft) -> Row:
        steps = [step_to_json(s.ins, s.des, s.inspection, s.need_loss, things=s.things) for s in draft.steps]
        seen = {t for step in draft.steps for t in step.things or ()}
        licence = Scene(tuple(seen), draft.scene.ground).licence
        came = {"parent": "", "teacher": {"name": "scenes", "version": VERSION}, "seed": self.options.seed, **draft.made}
        scene = {
            "split": draft.scene.split,
            "geneval": dict(draft.asked),
            "unseen": list(draft.scene.unseen),
            "ground": draft.scene.ground,
            "graph": draft.scene.graph(self.options.size),
        }
        return {
            "key": key_of(row), "prompt": draft.prompt, "category": draft.category, "steps": json.dumps(steps),
            "finished": draft.finished, "scene": json.dumps(scene), "licence": licence,
            "provenance": json.dumps({**came, "licence": licence}), DROPPED: "",
        }  # fmt: skip

    def _from_sample(self, row: Row, judged: Judged, cell: str) -> Row:
        trace, verdict = judged.trace, judged.verdict
        steps = []
        for number, step in enumerate(trace.steps[: judged.step], 1):
            last = number == judged.step
            picture = Path(step.sketch.path).name if step.sketch and step.sketch.path and (verdict.drawable or not last) else ""
            seen, losses = (verdict.inspection, INSPECTED) if last else (None, CONTEXT)
            steps.append(step_to_json(step.ins, step.des, seen, losses, picture=picture))
        licence = trace.licence or self.licence
        came = {
            "parent": trace.key, "teacher": {"name": "self-sampled", "version": VERSION, "sha256": self.sampled_sha256},
            "seed": self.options.seed, "step": judged.step, "critic": "symbolic", "faults": list(verdict.faults),
            "sampled": json.loads(trace.provenance or "{}"), "licence": licence,
        }  # fmt: skip
        said = f"{cell}: {verdict.faults[0]}" if verdict.faults else cell
        return {
            "key": key_of(row), "prompt": trace.prompt, "category": said, "steps": json.dumps(steps), "finished": False,
            "scene": json.dumps(dict(trace.scene)), "licence": licence, "provenance": json.dumps(came), DROPPED: "",
        }  # fmt: skip


@dataclass(frozen=True)
class SketchScenes:
    """The stage "sketch": draws scenes, and fetches pictures that a model drew."""

    size: int
    folder: str  # of the sampled pictures
    name = "sketch"
    schema = DRAWN
    processes = 0
    accelerated = False
    releases = False
    part_size = 0

    def identity(self) -> Mapping[str, Any]:
        return {"version": VERSION, "size": self.size}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return lambda rows: [self._drawn(row) for row in rows]

    def _drawn(self, row: Row) -> Row:
        steps, scene = json.loads(row["steps"]), json.loads(row["scene"])
        drawn = []
        for step in steps:
            things = things_of(step)
            data = None
            if things is not None:
                data = png_bytes(render(Scene(things, scene["ground"]), self.size))
            elif step["picture"]:
                data = Picture(path=Path(self.folder, IMAGES, step["picture"])).read_bytes()
            said = {name: step[name] for name in ("ins", "des", "inspection", "need_loss")}
            drawn.append({**said, "image": image(data) if data is not None else None})
        return {**row, "steps": drawn, "shown": json.dumps([step["things"] for step in steps]), DROPPED: ""}


class PlanRefineBuilder(GeneratedExamples):
    """Plan traces by the stages that the module names."""

    builder = "plan_refine"
    kinds = ("plan_traces",)
    Options = Options

    def stages(self, spec: DataSpec) -> Sequence[Stage | Gathering]:
        options = self._options
        self._credits = dict(CREDITS)
        folder = options.critiques.sampled if isinstance(options.critiques, SampledOptions) else ""
        plan = PlanTraces(options, self._looked_at(Path(folder)) if folder else "", spec.licence)
        sketch, read_back = SketchScenes(options.size, folder), ReadBack(options.size)
        self._teachers = {stage.name: dict(stage.identity()) for stage in (plan, sketch, read_back)}
        return [plan, sketch, read_back]

    def _looked_at(self, folder: Path) -> str:
        """The hash of the sampled trajectories.

        Raises:
            UserError: they are not enough.
        """
        sha256 = fingerprint(folder)
        sampled = Sampled(folder, self._options.seed, "train")
        needed = largest_remainder(self._options.train, CELLS)
        for cell in (TEXT_RIGHT, TEXT_WRONG):
            if sampled.count(cell) < needed[cell]:
                raise UserError(
                    f'{folder}: found {sampled.count(cell)} steps for "{cell}" in {sampled.traces} traces of train prompts; '
                    f"[build] train = {self._options.train} needs {needed[cell]}: sample more, or ask for fewer"
                )
        return sha256
