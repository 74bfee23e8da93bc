"""Data specs: one TOML file a data set, that says how it is built or read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from editkit.data.doctor.findings import KINDS
from editkit.errors import did_you_mean
from editkit.recipe.load import Source, load_toml_model
from editkit.recipe.schema import Component, Fraction, Names, PositiveInt, Section

FORMAT = 1
Kind = Literal["edit_pairs", "edit_requests", "captioned_images", "plan_traces"]
# Keys that change nothing of a data set but the disk that building it takes.
NOT_OF_THE_SET = {"build": {"filter": {"release"}}}
# Keys that change nothing of what a builder makes.
NOT_BUILT_FROM = dict.fromkeys(("role", "get", "expect", "unverified", "notes", "check", "fix"), True) | NOT_OF_THE_SET

# Raised when a builder makes something else of the same spec; 1 = not in the table.
BUILDER_VERSIONS = {"instruction_tuning": 2}


class Build(Component):
    """How the data set is made; the further keys belong to the builder."""

    builder: str  # a key of editkit.build.pipeline.BUILDERS


class Columns(Section):
    """Which column of the data holds what. Only what the kind needs has to be there.

    A name is a column or a place inside one, as `editkit.data.fields` reads it: "prompt", "image[0]",
    "conversations[0].value", "files[id=final].url", "edit_instruction | edit" (the first that is there), and for files also
    a pattern of other fields, "{seed}_0.jpg".
    """

    source: str = "source"
    target: str = "target"
    instruction: Names = "instruction"  # a text or a list of texts; of several columns all texts, the first one first
    inverse: Names = ""  # the instruction of the way back; it makes a second example with source and target exchanged
    references: Names = []  # further pictures that the instruction speaks of; each a picture or a list of pictures
    mask: str = ""
    category: str = ""
    source_caption: str = ""
    target_caption: str = ""
    score: str = ""  # how good the pair is, for the doctor's "low score"
    image: str = "image"
    caption: Names = "caption"  # a text or a list of texts
    key: str = ""  # "" = the row's number or the file's stem
    group: str = ""  # rows that belong together, such as the turns of one session: never in two splits; "" = every row alone
    scores: list[str] = []  # numbers that the authors give every example

    def names(self, kind: str) -> dict[str, list[str]]:
        """What is read for a kind of example, and from which columns; the needed ones first."""
        needed = {"edit_pairs": ["source", "instruction", "target"], "edit_requests": ["source", "instruction"]}
        captions = ["source_caption", "target_caption"]
        pairs = ["inverse", "references", "mask", "category", *captions, "key", "group", "score", "scores"]
        wanted = ["image", "caption", "key", "group"] if kind == "captioned_images" else [*needed[kind], *pairs]
        return {name: listed for name in wanted if (listed := as_list(getattr(self, name)))}


class Keep(Section):
    """A condition on a column; rows that do not fulfil it are left out."""

    column: str
    at_least: float | None = None
    at_most: float | None = None
    one_of: list[str | bool | int] = []

    @model_validator(mode="after")
    def _a_condition(self) -> Keep:
        if self.at_least is None and self.at_most is None and not self.one_of:
            raise ValueError("expected at_least = NUMBER, at_most = NUMBER or one_of = [VALUES]")
        return self


class Turns(Section):
    """Rows that hold several edits one after the other; each becomes an example.

    Either `each` names a column with a list, in whose entries the columns are looked up first, or the columns are numbered.
    """

    each: str = ""
    instruction: str = ""  # {n} counts turns from 1, {i} from 0: "instruction_{n}", "prompts[{i}]"
    target: str = ""
    source: Literal["previous", "original"] = "previous"  # what a later turn of numbered columns starts from

    @model_validator(mode="after")
    def _one_form(self) -> Turns:
        numbered = bool(self.instruction and self.target)
        if bool(self.each) == numbered or bool(self.instruction) != bool(self.target):
            raise ValueError('expected each = "COLUMN", or instruction and target with a number: "instruction_{n}"')
        return self


class Read(Section):
    """How somebody else's data set is read. Paths are relative to the spec file; those marked (*) to `path`.

    "folder": a table whose rows name picture files: `table`, or metadata.jsonl, .csv or .json. "pairs": `source` and `target`
    are folders with the same file names, and `<name>.txt` beside the target (or in `texts`) holds the instruction, one a line.
    "images": pictures with a text of the same name beside them. "hf": a Hugging Face data set: parquet files with the pictures
    inside, `save_to_disk`, or an image folder. "webdataset": tar shards, in which files of the same name are one example.
    """

    layout: Literal["folder", "pairs", "images", "hf", "webdataset"]
    path: str = ""  # a folder; of "hf" also a URL: "hf://datasets/OWNER/NAME"
    repo: str = ""  # OWNER/NAME on the Hugging Face Hub; "hf" reads from there what is not at `path`
    revision: str = "main"  # of the repository: a commit, a tag or a branch
    files: str = ""  # (*) pattern of the parquet files or tar shards; "" = those of the split, or all; SPLIT stands for it
    table: str = ""  # (*) pattern of the tables: .jsonl, .jsonl.gz, .json, .csv or .parquet
    beside: str = ""  # a JSON object in the folder of each table, whose fields all of its rows get
    root: str | None = None  # (*) the folder of the pictures; left out = that of the table
    archives: str = ""  # (*) pattern of uncompressed tar files, whole or in parts, where pictures lie that are no files
    source: str = ""
    target: str = ""
    references: list[str] = []  # of "pairs": folders with further pictures of the same names
    numbered: bool = False  # of "pairs": NAME_0.png, NAME_1.png ... in `source` are source and references of NAME.png
    texts: str = ""
    text_from: Literal["file", "name"] = "file"  # "name" = the file's name is its text, with spaces for underscores
    phrasings: list[str] = []  # the instructions of every example, for data that have none
    strip: list[str] = []  # pieces that are no part of the instruction: "<image>"
    mask_shows: Literal["white", "black", "transparent"] = "white"  # how a mask marks where the edit may change something
    split: str = "train"  # of a Hugging Face data set
    test_split: str = ""  # the same for testing; "" = a share of `split`, by [split] of the spec
    columns: Columns = Columns()
    keep: list[Keep] = []  # all must be fulfilled
    turns: Turns | None = None

    @model_validator(mode="after")
    def _paths(self) -> Read:
        if self.layout == "pairs":
            if not (self.source and self.target):
                raise ValueError('layout = "pairs" needs source = "FOLDER" and target = "FOLDER"')
        elif not self.path and not (self.layout == "hf" and self.repo):
            raise ValueError(f'layout = "{self.layout}" needs path = "FOLDER"')
        if self.test_split and self.layout != "hf":
            raise ValueError('test_split is for layout = "hf"; elsewhere [split] test = SHARE divides the data')
        return self


def as_list(names: str | list[str]) -> list[str]:
    """One name or several as a list; "" is none."""
    return [n for n in ([names] if isinstance(names, str) else names) if n]


class Expect(Section):
    """How many rows the authors say there are; a row may become several examples."""

    rows: PositiveInt | None = None  # of the split that is read; check compares
    about: PositiveInt | None = None  # the same where nobody says it exactly; check does not compare
    test_rows: PositiveInt | None = None  # of `test_split`


class Split(Section):
    """Which examples are for testing: a stable share, chosen by a hash of the example's key."""

    test: Annotated[Fraction, Field(lt=1)] = 0.05


def _are_kinds(names: list[str]) -> list[str]:
    for name in names:
        if name not in KINDS:
            hint = did_you_mean(name, KINDS, f"expected some of {', '.join(KINDS)}")
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
    role: Literal["training", "evaluation"] = "training"  # an evaluation set is all test, and refused as training data
    licence: str = ""
    credit: str = ""
    homepage: str = ""
    get: str = ""  # what brings the data here; "" = downloading `read.repo`
    notes: list[str] = []  # peculiarities that one should know
    expect: Expect = Expect()
    unverified: list[str] = []  # keys of this file whose value nobody has read at its source yet: "read.columns.source"
    build: Build | None = None
    read: Read | None = None
    split: Split = Split()
    check: Check = Check()
    fix: Fix = Fix()

    @model_validator(mode="after")
    def _one_way(self) -> DataSpec:
        if (self.build is None) == (self.read is None):
            raise ValueError("expected exactly one of [build] and [read]")
        if self.kind == "plan_traces" and self.read is not None:
            raise ValueError(
                'found kind = "plan_traces" with [read]; expected [build] (for traces of others see editkit.data.trace_files)'
            )
        if self.kind == "edit_requests" and self.role != "evaluation":
            raise ValueError('kind = "edit_requests" has no targets to learn from; expected role = "evaluation"')
        return self

    @property
    def builder_version(self) -> int:
        """Of what its builder makes; see `BUILDER_VERSIONS`."""
        return BUILDER_VERSIONS.get(self.build.builder, 1) if self.build is not None else 1


def load_spec(path: str | Path) -> tuple[DataSpec, Source]:
    """Loads a data spec; mistakes are named with file and line."""
    return load_toml_model(path, DataSpec)


def spec_hash(spec: DataSpec) -> str:
    """A hash of what a spec says of the data, by which a built folder knows what it was built from."""
    said = spec.model_dump(mode="json", exclude=NOT_BUILT_FROM)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def data_folder(spec: DataSpec) -> Path:
    """Where `editkit build` puts the data set: `data/<name>` under the current folder."""
    return Path("data") / spec.name
