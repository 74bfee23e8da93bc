"""Examples as rows of Parquet files, and the columns that each kind of data set has."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from editkit.data.examples import EditPair, Example
from editkit.data.traces import PlanStep, PlanTrace

Row = dict[str, Any]

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.string())
FLAGS = ("plan", "sketch", "inspection")
STEPS = pa.list_(
    pa.struct(
        [
            ("ins", pa.string()),
            ("des", pa.string()),
            ("image", IMAGE),
            (
                "inspection",
                pa.struct(
                    [("ok", pa.bool_()), ("on", pa.string()), ("issues", TEXTS), ("deferred", TEXTS), ("refine", pa.string())]
                ),
            ),
            ("need_loss", pa.struct([(name, pa.bool_()) for name in FLAGS])),
        ]
    )
)
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "edit_pairs": {
        "key": pa.string(), "source": IMAGE, "target": IMAGE, "mask": IMAGE, "instructions": TEXTS,
        "category": pa.string(), "source_caption": pa.string(), "target_caption": pa.string(),
        "source_facts": pa.string(), "target_facts": pa.string(), "licence": pa.string(),
    },
    "captioned_images": {
        "key": pa.string(), "image": IMAGE, "captions": TEXTS, "facts": pa.string(), "licence": pa.string(),
    },
    "plan_traces": {
        "key": pa.string(), "prompt": pa.string(), "category": pa.string(), "steps": STEPS, "finished": pa.bool_(),
        "scene": pa.string(), "licence": pa.string(),
    },
}  # fmt: skip
PROVENANCE = {"provenance": pa.string()}  # JSON: how a generated example came about


def to_row(example: Example | PlanTrace) -> Row:
    """An example as a row of the Parquet files."""
    if isinstance(example, PlanTrace):
        return {
            "key": example.key,
            "prompt": example.prompt,
            "category": example.category,
            "steps": [_step(step) for step in example.steps],
            "finished": example.final is not None,
            "scene": json.dumps(dict(example.scene)),
            "licence": example.licence,
            "provenance": example.provenance,
        }
    if isinstance(example, EditPair):
        return {
            "key": example.key,
            "source": image(example.source.read_bytes()),
            "target": image(example.target.read_bytes()),
            "mask": image(example.mask.read_bytes()) if example.mask else None,
            "instructions": list(example.instructions),
            "category": example.category,
            "source_caption": example.source_caption,
            "target_caption": example.target_caption,
            "source_facts": json.dumps(dict(example.source_facts)),
            "target_facts": json.dumps(dict(example.target_facts)),
            "licence": example.licence,
            "provenance": example.provenance,
        }
    return {
        "key": example.key,
        "image": image(example.image.read_bytes()),
        "captions": list(example.captions),
        "facts": json.dumps(dict(example.facts)),
        "licence": example.licence,
    }


def _step(step: PlanStep) -> Row:
    seen, losses = step.inspection, step.need_loss
    return {
        "ins": step.ins,
        "des": step.des,
        "image": image(step.sketch.read_bytes()) if step.sketch is not None else None,
        "inspection": asdict(seen) if seen is not None else None,
        "need_loss": asdict(losses),
    }


def image(data: bytes) -> Row:
    """The bytes of an image file, as `datasets` stores one."""
    return {"bytes": data, "path": None}


def parquet_schema(kind: str, *, generated: bool = False) -> pa.Schema:
    """The columns of a kind, with the features that make `datasets.load_dataset` open pictures as pictures.

    Args:
        kind: "edit_pairs", "captioned_images" or "plan_traces".
        generated: whether every example has its provenance beside it.
    """
    columns = COLUMNS[kind] | (PROVENANCE if generated else {})
    features = {name: _feature(type_) for name, type_ in columns.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=metadata)


def _feature(type_: pa.DataType) -> dict[str, Any]:
    if type_ == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(type_):
        return {"feature": _feature(type_.value_type), "_type": "List"}
    if pa.types.is_struct(type_):
        return {field.name: _feature(field.type) for field in type_}
    return {"dtype": str(type_), "_type": "Value"}
