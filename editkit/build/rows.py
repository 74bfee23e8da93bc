"""Examples as rows of Parquet files, and the columns that each kind of data set has."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from editkit.data.examples import EditPair, Example

Row = dict[str, Any]

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.string())
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "edit_pairs": {
        "key": pa.string(), "source": IMAGE, "target": IMAGE, "mask": IMAGE, "instructions": TEXTS,
        "category": pa.string(), "source_caption": pa.string(), "target_caption": pa.string(),
        "source_facts": pa.string(), "target_facts": pa.string(), "licence": pa.string(),
    },
    "captioned_images": {
        "key": pa.string(), "image": IMAGE, "captions": TEXTS, "facts": pa.string(), "licence": pa.string(),
    },
}  # fmt: skip
PROVENANCE = {"provenance": pa.string()}  # JSON: how a generated example came about


def to_row(example: Example) -> Row:
    """An example as a row of the Parquet files."""
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


def image(data: bytes) -> Row:
    """The bytes of an image file, as `datasets` stores one."""
    return {"bytes": data, "path": None}


def parquet_schema(kind: str, *, generated: bool = False) -> pa.Schema:
    """The columns of a kind, with the features that make `datasets.load_dataset` open pictures as pictures.

    Args:
        kind: "edit_pairs" or "captioned_images".
        generated: whether every example has its provenance beside it.
    """
    columns = COLUMNS[kind] | (PROVENANCE if generated else {})
    features: dict[str, Any] = {}
    for name, type_ in columns.items():
        if type_ is IMAGE:
            features[name] = {"_type": "Image"}
        elif type_ is TEXTS:
            features[name] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
        else:
            features[name] = {"dtype": "string", "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=metadata)
