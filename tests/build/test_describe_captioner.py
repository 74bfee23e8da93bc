"""What a trained captioner says of pairs, without a network and the same in every build."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editkit.build.pipeline import build_spec, builder_of
from editkit.build.rows import Row, parquet_schema, to_row
from editkit.data.examples import EditPair
from editkit.data.pictures import Picture
from editkit.data.read import open_dataset
from editkit.data.spec import load_spec
from editkit.errors import UserError
from editkit.models.difference_captioner.captioner import DifferenceCaptioner
from tests.tiny import encoded, picture, tiny_captioner

SPEC = """\
format = 1
name = "described"
kind = "edit_pairs"
[build]
builder = "describe"
pairs = "pairs"
train = 4
test = 0
"""
CAPTIONER = '[build.captioner]\nmodel = "captioner"\n'
CHAT = '[build.chat]\nurl = "http://127.0.0.1:1/v1"\nmodel = "any"\n'


@pytest.fixture
def pairs(workplace: Path) -> list[EditPair]:
    tiny_captioner(seed=4).save(Path("captioner"))
    plain = EditPair("a", Picture(data=encoded(picture("black"))), Picture(data=encoded(picture("red", (40, 20)))), ())
    made = [
        plain,
        replace(plain, key="b", instructions=("make the hair red", "redder")),
        replace(plain, key="c", source=Picture(data=b"no picture")),
        replace(plain, key="d", target=Picture(data=encoded(picture("blue"))), instructions=("add a beard",)),
    ]
    Path("pairs/data").mkdir(parents=True)
    path = Path("pairs/data/train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist([to_row(p) for p in made], parquet_schema("edit_pairs", generated=True)), path)
    facts = {"format": 1, "kind": "edit_pairs", "name": "pairs", "counts": {"train": 4}, "sha256": "x", "licences": {}}
    Path("pairs/dataset.json").write_text(json.dumps({**facts, "shards": {path.name: ""}}))
    return made


def rows_of(text: str) -> dict[str, Row]:
    """What the only stage makes of the pairs, by their keys."""
    Path("described.toml").write_text(text)
    spec, source = load_spec(Path("described.toml"))
    builder = builder_of(spec, source)
    (stage,) = builder.stages(spec)
    rows = stage.open()([{"split": "train", "index": i} for i in range(builder.counts()["train"])])
    return {json.loads(row["provenance"])["parent"]: row for row in rows if row["provenance"]}


def agreement(row: Row) -> float | None:
    return json.loads(row["provenance"])["scores"].get("agreement")


def test_missing_words_are_written_and_given_ones_measured(pairs: list[EditPair]) -> None:
    found = rows_of(SPEC + CAPTIONER)
    captioner = DifferenceCaptioner(tiny_captioner(seed=4))
    shown = captioner.stack([(p.source.open(), p.target.open()) for p in (pairs[0], pairs[1], pairs[3])])
    said = captioner.describe(shown)
    agreed = captioner.agreement(shown, ["", "make the hair red", "add a beard"])
    assert {key: row["instructions"] for key, row in found.items()} == {
        "a": [said[0]], "b": ["make the hair red", "redder"], "d": ["add a beard"],
    }  # fmt: skip
    assert [agreement(found[key]) for key in "abd"] == [None, *(pytest.approx(value, abs=1e-3) for value in agreed[1:])]
    came = json.loads(found["b"]["provenance"])
    assert (came["described_as"], came["given"]) == (said[1], "make the hair red")
    assert re.fullmatch("[0-9a-f]{16}", came["describer"]["model_sha256"])


def test_it_says_the_same_again_and_another_model_is_another_build(pairs: list[EditPair]) -> None:
    first, again = rows_of(SPEC + CAPTIONER), rows_of(SPEC + CAPTIONER)
    assert first == again
    tiny_captioner(seed=5).save(Path("captioner"))
    hashes = [json.loads(rows["a"]["provenance"])["describer"]["model_sha256"] for rows in (first, rows_of(SPEC + CAPTIONER))]
    assert hashes[0] != hashes[1]


def test_doubtful_words_are_dropped_where_that_is_asked_for(pairs: list[EditPair]) -> None:
    agreed = {key: agreement(row) for key, row in rows_of(SPEC + CAPTIONER).items()}
    least = (agreed["b"] + agreed["d"]) / 2
    dropped = {key: row["dropped"] for key, row in rows_of(SPEC + f"least = {least}\n" + CAPTIONER).items()}
    worse = min("bd", key=lambda key: agreed[key])
    assert dropped == {"a": "", "b": "", "d": ""} | {worse: "another edit"}
    all_anew = rows_of(SPEC + 'write = "all"\n' + CAPTIONER)
    assert all_anew["b"]["instructions"] == [json.loads(all_anew["b"]["provenance"])["described_as"]]


@pytest.mark.slow
def test_a_build_needs_no_network(pairs: list[EditPair]) -> None:
    Path("described.toml").write_text(SPEC + CAPTIONER)
    build_spec(Path("described.toml"), Path("out"))
    dataset = open_dataset("out")
    assert [bool(dataset[i].instructions[0]) for i in range(len(dataset))] == [True] * 3
    stages = json.loads(Path("out/dataset.json").read_text())["provenance"]["stages"]
    assert stages == {"describe": {"kept": 3, "a picture cannot be read": 1}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SPEC, "found neither [build.chat] nor [build.captioner]; expected one of them"),
        (SPEC + CAPTIONER + CHAT, "found [build.chat] and [build.captioner]; expected one of them"),
        (SPEC + CAPTIONER.replace('"captioner"', '"nowhere"'), 'found no model at "nowhere"'),
        (SPEC + CAPTIONER.replace('"captioner"', '"latest"'), "found no run"),
        (SPEC + CAPTIONER.replace('"captioner"', '"pairs"'), "cannot be loaded as a difference captioner"),
        (SPEC + CAPTIONER.replace("model", "modle"), 'found unknown key "build.captioner.modle"; did you mean "model"?'),
    ],
)
def test_a_mistake_is_one_line(pairs: list[EditPair], text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        rows_of(text)
