"""Data specs: one TOML file a data set, that says how it is built or read."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from editkit.data.doctor.findings import KINDS
from editkit.recipe.load import Source, load_toml_model
from editkit.recipe.schema import Component, Fraction, Section

FORMAT = 1
Kind = Literal["edit_pairs", "captioned_images"]


class Build(Component):
    """How the data set is made; the further keys belong to the builder."""

    builder: str  # a key of editkit.build.pipeline.BUILDERS


class Columns(Section):
    """Which column of the data holds what. Only what the kind needs has to be there."""

    source: str = "source"
    target: str = "target"
    instruction: str = "instruction"  # a text or a list of texts
    mask: str = ""
    category: str = ""
    score: str = ""  # how good the pair is, for the doctor
    image: str = "image"
    caption: str = "caption"  # a text or a list of texts
    key: str = ""  # "" = the row's number or the file's stem


class Read(Section):
    """How somebody else's data set is read. Paths are relative to the spec file.

    "folder": `path` holds a metadata.jsonl, .csv or .json whose rows name picture files. "pairs": `source` and `target` are
    folders with the same file names, and `<name>.txt` beside the target (or in `texts`) holds the instruction, one a line.
    "hf": `path` is a local Hugging Face data set: parquet files, `save_to_disk`, or an image folder.
    """

    layout: Literal["folder", "pairs", "hf"]
    path: str = ""
    source: str = ""
    target: str = ""
    texts: str = ""
    split: str = "train"  # of a Hugging Face data set
    columns: Columns = Columns()

    @model_validator(mode="after")
    def _paths(self) -> Read:
        if self.layout == "pairs":
            if not (self.source and self.target):
                raise ValueError('layout = "pairs" needs source = "FOLDER" and target = "FOLDER"')
        elif not self.path:
            raise ValueError(f'layout = "{self.layout}" needs path = "FOLDER"')
        return self


class Split(Section):
    """Which examples are for testing: a stable share, chosen by a hash of the example's key."""

    test: Annotated[Fraction, Field(lt=1)] = 0.05


def _are_kinds(names: list[str]) -> list[str]:
    for name in names:
        if name not in KINDS:
            near = difflib.get_close_matches(name, KINDS, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"expected some of {', '.join(KINDS)}"
            raise ValueError(f'found "{name}"; {hint}')
    return names


Kinds = Annotated[list[str], AfterValidator(_are_kinds)]


class Check(Section):
    """What `editkit check` compares with. Paths are relative to the spec file."""

    leaks_from: list[str] = []  # data sets or specs whose pictures must not be in the training split
    min_score: float | None = None  # None = far below most of the data set's own


class Fix(Section):
    """What `editkit check SPEC --fix FOLDER` does in the copy that it writes; what is not named stays as it is.

    A finding whose kind is in `repair` is repaired where that is possible; else it is dropped where its kind is in `drop`.
    """

    repair: Kinds = [name for name, kind in KINDS.items() if kind.repair and name != "swapped"]
    drop: Kinds = [name for name, kind in KINDS.items() if kind.severity == "error"]


class DataSpec(Section):
    """A data spec; exactly one of `[build]` and `[read]`."""

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    kind: Kind
    licence: str = ""
    credit: str = ""
    homepage: str = ""
    build: Build | None = None
    read: Read | None = None
    split: Split = Split()
    check: Check = Check()
    fix: Fix = Fix()

    @model_validator(mode="after")
    def _one_way(self) -> DataSpec:
        if (self.build is None) == (self.read is None):
            raise ValueError("expected exactly one of [build] and [read]")
        return self


def load_spec(path: str | Path) -> tuple[DataSpec, Source]:
    """Loads a data spec; mistakes are named with file and line."""
    return load_toml_model(path, DataSpec)


def spec_hash(spec: DataSpec) -> str:
    """A hash of what a spec says of the data, by which a built folder knows what it was built from."""
    said = spec.model_dump(mode="json", exclude={"check", "fix"})
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def data_folder(spec: DataSpec) -> Path:
    """Where `editkit build` puts the data set: `data/<name>` under the current folder."""
    return Path("data") / spec.name
