"""The chat teacher against a real server: whatever it does, nothing is lost and nothing is asked twice."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from editkit.build.rows import Row
from editkit.build.teachers.chat import PROMPT, ChatOptions, ChatTeacher
from editkit.build.text_filters import SelectTexts
from editkit.errors import UserError
from editkit.models.chat import client as chat_client
from tests.build.chat_server import SLOW_S, ChatServer


@pytest.fixture
def server(running: ChatServer, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    monkeypatch.setattr(chat_client, "FIRST_WAIT_S", 0.02)
    monkeypatch.setenv("EDITKIT_CACHE", str(workplace / "cache"))
    running.log.unlink(missing_ok=True)
    return running


def _propose(server: ChatServer, *captions: str, **changes: Any) -> list[Row]:
    Path("captions.txt").write_text("\n".join(captions) + "\n")
    given = {"teacher": "chat", "url": server.url, "model": "any", "captions": "captions.txt", "attempts": 3, **changes}
    teacher = ChatTeacher.of(ChatOptions(**given), 7, {"train": len(captions), "test": 0})
    return teacher.open()([{"split": "train", "index": i} for i in range(len(captions))])


def _ledger() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("cache/chat/ledger.jsonl").read_text().splitlines()]


def test_a_caption_becomes_an_instruction_and_an_edited_caption(server: ChatServer) -> None:
    (row,) = _propose(server, "a blue house")
    assert (row["caption"], row["edited_caption"], row["instructions"]) == ("a blue house", "a red house", ["make it red"])
    assert (row["key"], row["parent"], row["dropped"]) == ("train-000000", "line 1", "")
    teacher = json.loads(row["teacher"])
    assert (teacher["model"], teacher["served_by"], teacher["tokens_in"], teacher["tokens_out"]) == (
        "any",
        "loopback-1",
        100,
        20,
    )
    (request,) = server.requests()
    body = request["body"]
    assert request["path"] == "/v1/chat/completions"
    assert body["messages"][0] == {"role": "system", "content": PROMPT}
    assert (body["temperature"], body["frequency_penalty"], body["max_tokens"]) == (0.7, 0.1, 256)
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["instruction", "edited_caption"]


def test_answers_stand_with_their_captions_however_many_are_asked_at_once(server: ChatServer) -> None:
    captions = [f"a blue house, number {i}" for i in range(40)]
    rows = _propose(server, *captions, concurrency=8)
    assert [r["edited_caption"] for r in rows] == [c.replace("blue", "red") for c in captions]


@pytest.mark.parametrize("trouble", ["429 once", "500 once", "503 once", "malformed once", "wrong type once", "cut once"])
def test_a_trouble_that_passes_costs_one_attempt(trouble: str, server: ChatServer) -> None:
    caption = f"a blue house [{trouble}]"
    (row,) = _propose(server, caption)
    assert row["edited_caption"] == f"a red house [{trouble}]"
    assert server.asked()[caption] == 2
    first, second = _ledger()
    assert (first["attempt"], second["attempt"], second["outcome"]) == (1, 2, "answered")
    assert first["outcome"] != "answered"


def test_a_slow_server_is_given_up_and_asked_again(server: ChatServer) -> None:
    (row,) = _propose(server, "a blue boat [slow once]", timeout_s=SLOW_S / 10)
    assert row["edited_caption"] == "a red boat [slow once]"
    assert _ledger()[0]["outcome"] == "ReadTimeout"


def test_what_a_server_asks_to_wait_is_waited(server: ChatServer) -> None:
    _propose(server, "a blue tree [429 once]")
    first, second = server.requests()
    assert 0.2 <= second["at"] - first["at"] < 2


def test_a_caption_without_a_usable_answer_is_dropped_and_the_others_are_not(server: ChatServer) -> None:
    rows = _propose(server, "a blue cat [malformed always]", "a blue dog", "a blue cow [empty always]")
    kept = list(SelectTexts(4).gather(iter([{"split": "train", **r} for r in rows if not r["dropped"]])))
    assert [r["dropped"] for r in rows] == ["no usable reply", "", ""]
    assert [r["dropped"] for r in kept] == ["", "empty"]
    assert server.asked()["a blue cat [malformed always]"] == 3
    assert len({request["body"]["seed"] for request in server.requests()}) == 3  # the same seed would bring the same reply


@pytest.mark.parametrize(
    ("caption", "changes", "words"),
    [
        ("a blue sea [500 always]", {}, "status 500.*3 attempts.*the same command goes on"),
        ("a blue sea [401]", {}, "status 401.*no such key.*look at url, model and key_env"),
        ("a blue sea", {"url": "http://127.0.0.1:9/v1"}, "ConnectError.*3 attempts"),
    ],
)
def test_a_trouble_that_stays_stops_the_build_with_one_line(
    caption: str, changes: dict[str, str], words: str, server: ChatServer
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        _propose(server, caption, **changes)
    assert "\n" not in str(caught.value)


def test_nothing_is_asked_twice(server: ChatServer) -> None:
    captions = ["a blue hat", "a blue cat [malformed always]", "a blue sea [500 always]"]
    with pytest.raises(UserError):
        _propose(server, *captions, concurrency=1)
    before = server.asked()
    first = _propose(server, *captions[:2])
    assert server.asked() == before
    assert _propose(server, *captions[:2]) == first
    assert first[1]["dropped"] == "no usable reply"
    _propose(server, "a blue hat", temperature=0.9)
    assert server.asked()["a blue hat"] == before["a blue hat"] + 1


def test_the_ledger_says_what_it_cost(server: ChatServer) -> None:
    _propose(server, "a blue bill [malformed once]", price_in=2.0, price_out=10.0)
    lines = _ledger()
    assert [line["cost"] for line in lines] == pytest.approx([(100 * 2 + 20 * 10) / 1e6] * 2)  # useless replies cost, too
    assert {line["model"] for line in lines} == {"loopback-1"}


def test_requests_keep_their_distance(server: ChatServer) -> None:
    _propose(server, *(f"a blue lake {i}" for i in range(4)), per_minute=600)
    at = sorted(request["at"] for request in server.requests())
    assert all(later - earlier > 0.08 for earlier, later in itertools.pairwise(at))


def test_the_key_comes_from_the_environment_and_is_written_nowhere(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="found no environment variable ENDPOINT_KEY"):
        _propose(server, "a blue house", key_env="ENDPOINT_KEY")
    monkeypatch.setenv("ENDPOINT_KEY", "s3cr3t")
    rows = _propose(server, "a blue house", key_env="ENDPOINT_KEY")
    assert server.requests()[0]["key"] == "Bearer s3cr3t"
    assert "s3cr3t" not in json.dumps(rows)
    assert not any(b"s3cr3t" in p.read_bytes() for p in Path("cache").rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ("missing.txt", "missing.txt cannot be read"),
        ("two.txt", "found 2 captions; expected 5"),
        ("folder", "found no data set"),
    ],
)
def test_captions_that_are_not_there_are_named_before_anybody_is_asked(captions: str, words: str, workplace: Path) -> None:
    Path("two.txt").write_text("one\n\ntwo\n")
    options = ChatOptions(teacher="chat", url="http://127.0.0.1:9", model="any", captions=captions)
    with pytest.raises(UserError, match=re.escape(words)):
        ChatTeacher.of(options, 7, {"train": 3, "test": 2})


def test_captions_may_come_from_a_data_set(server: ChatServer) -> None:
    spec = """format = 1
name = "faces"
kind = "captioned_images"
[build]
builder = "avatars"
train = 3
test = 2
size = 16
seed = 3
"""
    Path("faces.toml").write_text(spec)
    options = ChatOptions(teacher="chat", url=server.url, model="any", captions="faces.toml")
    teacher = ChatTeacher.of(options, 7, {"train": 3, "test": 2})
    (row,) = teacher.open()([{"split": "test", "index": 1}])
    assert row["parent"] == "test-000001"
    assert row["caption"] == server.requests()[0]["caption"]
    with pytest.raises(UserError, match='found 2 examples of "test"'):
        ChatTeacher.of(options, 7, {"train": 3, "test": 3})
