"""What is known of a plan trace before it is drawn, as rows between stages; and the stage that reads everything back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from editkit.build.rows import Row, parquet_schema
from editkit.build.stages import DROPPED
from editkit.data.read import plan_trace
from editkit.data.traces import Inspection, NeedLoss, PlanTrace, TraceError, check_trace
from editkit.evaluate.benches.geneval_rules import judge
from editkit.evaluate.benches.scene_truth import SceneTruth
from editkit.lab.scenes import Scene, Thing
from editkit.lab.trace_check import agrees

VERSION = 1
DRAFTS = pa.schema(
    [
        ("key", pa.string()),
        ("prompt", pa.string()),
        ("category", pa.string()),
        ("steps", pa.string()),  # JSON: see `step_to_json`
        ("finished", pa.bool_()),
        ("scene", pa.string()),  # JSON: split, geneval, ground, and the scene graph
        ("licence", pa.string()),
        ("provenance", pa.string()),
        (DROPPED, pa.string()),
    ]
)
# The things of a picture go along with it until they have been compared.
DRAWN = (
    parquet_schema("plan_traces", generated=True).append(pa.field("shown", pa.string())).append(pa.field(DROPPED, pa.string()))
)
TRACES = parquet_schema("plan_traces", generated=True).append(pa.field(DROPPED, pa.string()))


def step_to_json(
    ins: str,
    des: str,
    inspection: Inspection | None,
    need_loss: NeedLoss,
    *,
    things: Sequence[Thing] | None = None,
    picture: str = "",
) -> Row:
    """A step that is not drawn yet: what its picture will show, or the file that it is in; neither where it has none."""
    shown = None if things is None else [[t.kind, t.colour, t.x, t.y, t.side] for t in things]
    seen = asdict(inspection) if inspection is not None else None
    return {"ins": ins, "des": des, "inspection": seen, "need_loss": asdict(need_loss), "things": shown, "picture": picture}


def things_of(step: Mapping[str, Any]) -> tuple[Thing, ...] | None:
    """What the picture of such a step shows; None where nobody knows."""
    return None if step["things"] is None else tuple(Thing(*values) for values in step["things"])


@dataclass(frozen=True)
class ReadBack:
    """The stage "filter": nothing is believed that cannot be read back.

    The grammar of the trace; of every picture that was drawn from a scene, that its description tells of just what is there,
    or of something else where the inspection says so; that no picture of the training split shows a held-out composition; and
    of a finished trace, that GenEval's rules find in the last picture what the prompt asks for.
    """

    size: int
    name = "filter"
    schema = TRACES
    processes = 0
    accelerated = False
    releases = True
    part_size = 0

    def identity(self) -> Mapping[str, Any]:
        return {"version": VERSION, "size": self.size}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return lambda rows: [{**row, DROPPED: self._fault(row)} for row in rows]

    def _fault(self, row: Row) -> str:
        trace = plan_trace(_opened(row))
        try:
            check_trace(trace)
        except TraceError as error:
            return f"grammar: {error.why}"
        shown = [None if things is None else tuple(Thing(*t) for t in things) for things in json.loads(row["shown"])]
        for step, things in zip(trace.steps, shown, strict=True):
            if things is None:
                continue
            wrongly_drawn = step.inspection is not None and not step.inspection.ok and step.inspection.on == "image"
            if agrees(step.des, things) == wrongly_drawn:
                return "a description agrees with a faulty picture" if wrongly_drawn else "a description is not what is drawn"
            if row["split"] == "train" and Scene(things, trace.scene["ground"]).unseen:
                return "a held-out composition"
        last = shown[-1]
        if trace.final is not None and last is not None and not self._fulfilled(trace, last):
            return "the prompt is not fulfilled"
        return ""

    def _fulfilled(self, trace: PlanTrace, things: tuple[Thing, ...]) -> bool:
        assert trace.final is not None
        image = trace.final.open()
        truth = SceneTruth([Scene(things, trace.scene["ground"])], self.size)
        found = truth.detect(image)
        return judge(trace.scene["geneval"], found, lambda some: truth.colours(image, some)).correct


def _opened(row: Row) -> Row:
    """A row as `ParquetDataset` has it."""
    return {name: row[name] for name in TRACES.names if name != DROPPED}
