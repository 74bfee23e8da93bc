"""What a model that sees both pictures says of a pair, against a real server that looks at them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editkit.build.pipeline import build_spec
from editkit.build.rows import parquet_schema, to_row
from editkit.data.examples import EditPair
from editkit.data.pictures import Picture
from editkit.data.read import open_dataset
from editkit.errors import UserError
from tests.build.chat_server import ChatServer
from tests.tiny import encoded, picture

SPEC = """\
format = 1
name = "described"
kind = "edit_pairs"
[build]
builder = "describe"
pairs = "pairs"
train = 5
test = 0
{more}
[build.chat]
url = "{url}"
model = "any"
side = 16
attempts = 2
"""


@pytest.fixture
def server(running: ChatServer, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    monkeypatch.setenv("EDITKIT_CACHE", str(workplace / "cache"))
    running.log.unlink(missing_ok=True)
    plain = EditPair(
        "a", Picture(data=encoded(picture("black", (40, 20)))), Picture(data=encoded(picture("red", (40, 20)))), ("",)
    )
    pairs = [
        plain,
        replace(plain, key="b", target=Picture(data=encoded(picture("blue"))), instructions=("make it more blue", "bluer")),
        replace(plain, key="c", instructions=("make it more green",), provenance=json.dumps({"scores": {"direction": 0.5}})),
        replace(plain, key="d", source=Picture(data=b"no picture")),
        replace(plain, key="e", target=Picture(data=encoded(picture("lime")))),
    ]
    folder = Path("pairs")
    (folder / "data").mkdir(parents=True)
    rows = [to_row(p) for p in pairs]
    path = folder / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows, parquet_schema("edit_pairs", generated=True)), path)
    licences = {"CC0 1.0": {"count": 5, "credit": "somebody"}}
    facts = {"format": 1, "kind": "edit_pairs", "name": "pairs", "counts": {"train": 5}, "sha256": "x", "licences": licences}
    (folder / "dataset.json").write_text(json.dumps({**facts, "shards": {path.name: ""}}))
    return running


def build(server: ChatServer, more: str = "") -> dict[str, EditPair]:
    Path("described.toml").write_text(SPEC.format(url=server.url, more=more))
    build_spec(Path("described.toml"), Path("out"))
    dataset = open_dataset("out")
    return {json.loads(p.provenance)["parent"]: p for p in (dataset[i] for i in range(len(dataset)))}


def test_pairs_without_words_get_some_and_the_others_are_judged(server: ChatServer) -> None:
    found = build(server)
    assert {key: p.instructions for key, p in found.items()} == {
        "a": ("make it more red",),
        "b": ("make it more blue", "bluer"),
        "c": ("make it more green",),
        "e": ("make it more green",),
    }
    assert {key: p.scores for key, p in found.items()} == {
        "a": {}, "b": {"agreement": 1.0}, "c": {"direction": 0.5, "agreement": 0.0}, "e": {},
    }  # fmt: skip
    came = json.loads(found["c"].provenance)
    assert (came["described_as"], came["given"]) == ("make it more red", "make it more green")
    assert (came["describer"]["served_by"], came["describer"]["tokens_in"]) == ("loopback-1", 100)
    facts = json.loads(Path("out/dataset.json").read_text())
    assert facts["provenance"]["stages"] == {"describe": {"kept": 4, "a picture cannot be read": 1}}
    assert found["a"].target.open().tobytes() == picture("red", (40, 20)).tobytes()


def test_the_pictures_are_sent_small_and_in_order_and_asked_about_once(server: ChatServer) -> None:
    build(server, "seed = 5")  # questions that no other test has asked: the processes of a build keep their cache folder
    first = server.requests()
    assert len(first) == 4
    content = first[0]["body"]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "image_url"]
    form = first[0]["body"]["response_format"]["json_schema"]["schema"]["properties"]
    assert form["agrees"]["enum"] == ["yes", "partly", "no"]
    build(server, "seed = 5\nleast = 0.5")
    assert len(server.requests()) == 4


def test_all_can_be_written_anew(server: ChatServer) -> None:
    found = build(server, 'write = "all"')
    assert found["b"].instructions == ("make it more blue",)
    assert found["c"].instructions == ("make it more red",)


def test_pairs_whose_words_say_something_else_are_dropped_where_that_is_asked_for(server: ChatServer) -> None:
    assert build(server, "least = 0.5").keys() == {"a", "b", "e"}
    stages = json.loads(Path("out/dataset.json").read_text())["provenance"]["stages"]
    assert stages["describe"]["another edit"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pairs": "nowhere"}, "nowhere: found no data set"),
        ({"train": "6"}, 'found 5 examples of "train"; [build] asks for 6'),
        ({"write": '"some"'}, '"build.write": found "some"'),
        ({"key_env": '"NO_SUCH_KEY"'}, "[build.chat] key_env: found no environment variable NO_SUCH_KEY"),
    ],
)
def test_a_mistake_is_one_line(server: ChatServer, change: dict[str, Any], words: str) -> None:
    text = SPEC.format(url=server.url, more='write = "all"').replace('model = "any"', 'model = "any"\nkey_env = ""')
    for key, value in change.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value if key != 'pairs' else repr(value)}", text, flags=re.M)
    Path("described.toml").write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        build_spec(Path("described.toml"), Path("out"))
