"""Plan traces on disk, as conversations for BAGEL trainers, and as edit pairs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from editkit.data.pictures import Picture
from editkit.data.trace_files import (
    CONVERSATION,
    from_conversation,
    read_conversations,
    read_traces,
    to_conversation,
    to_edit_pairs,
    write_conversations,
    write_traces,
)
from editkit.data.traces import Inspection, NeedLoss, PlanStep, PlanTrace, TraceError, trace_text
from editkit.errors import UserError
from tests.data.test_traces import DRAWN, PLAN_REJECTED, REJECTED, traces
from tests.tiny import encoded, picture

STEPS = (
    PlanStep("draw a meter", "a meter", DRAWN[0], Inspection(True, deferred=("a zebra",))),
    PlanStep("add a zebra", "a zebra right of the meter", DRAWN[1], REJECTED, NeedLoss(sketch=False)),
    PlanStep("erase one zebra", "one zebra", DRAWN[2], Inspection(True)),
)
TRACE = PlanTrace("zebra", "a zebra right of a meter", STEPS, DRAWN[2], {"objects": ["zebra"]}, "CC0 1.0")
VERDICT = PlanTrace("verdict", "a zebra", (replace(STEPS[0], need_loss=NeedLoss(False, False, True)), STEPS[1]), None)
UNDRAWN = PlanTrace("undrawn", "a cat", (PlanStep("draw a dog", "a dog", None, PLAN_REJECTED), STEPS[0], STEPS[2]), DRAWN[2])


def as_bytes(trace: PlanTrace) -> PlanTrace:
    """The same with its pictures in memory and without names, to compare."""

    def plain(found: Picture | None) -> Picture | None:
        return found and Picture(data=found.read_bytes())

    return replace(trace, steps=tuple(replace(s, sketch=plain(s.sketch)) for s in trace.steps), final=plain(trace.final))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert write_traces(tmp_path, [TRACE, VERDICT, UNDRAWN]) == 3
    found = list(read_traces(tmp_path))
    assert [as_bytes(t) for t in found] == [as_bytes(t) for t in (TRACE, VERDICT, UNDRAWN)]
    assert found[0].final == found[0].steps[-1].sketch
    names = sorted(p.name for p in (tmp_path / "images").iterdir())
    assert names[:3] == ["undrawn-02.png", "undrawn-03.png", "verdict-01.png"]
    line = json.loads((tmp_path / "traces.jsonl").read_text().splitlines()[0])
    assert line["format"] == 1
    assert line["final"] == "images/zebra-03.png"
    assert line["steps"][1]["inspect"]["deferred"] == ["a tree"]
    assert line["steps"][1]["need_loss"] == {"plan": True, "sketch": False, "inspection": True}


def test_pictures_keep_their_bytes_and_their_format(tmp_path: Path) -> None:
    photo = Picture(data=encoded(picture("red"), "JPEG"))
    write_traces(tmp_path, [PlanTrace("photo", "red", (PlanStep("draw red", "red", photo),), photo)])
    assert (tmp_path / "images" / "photo-01.jpeg").read_bytes() == photo.read_bytes()


def test_a_bad_trace_leaves_the_lines_of_before(tmp_path: Path) -> None:
    write_traces(tmp_path, [TRACE])
    for bad in (replace(TRACE, key="other", prompt=""), TRACE):
        with pytest.raises(TraceError, match=r"found prompt = ''|found this key twice"):
            write_traces(tmp_path, [TRACE, bad])
    assert [t.key for t in read_traces(tmp_path)] == ["zebra"]
    broken = Picture(data=b"no picture")
    with pytest.raises(TraceError, match=r"broken, step 1: found a picture that cannot be read"):
        write_traces(tmp_path, [PlanTrace("broken", "red", (PlanStep("draw red", "red", broken),), broken)])


def edit(line: dict[str, Any], *path: str | int, to: Any) -> None:
    for name in path[:-1]:
        line = line[name]
    line[path[-1]] = to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: edit(line, "steps", 1, "inspect", "on", to="sketch"), r":1, step 2: inspect.on: input should be"),
        (lambda line: edit(line, "steps", 2, "ins", to=3), r"step 3: ins: input should be a valid string"),
        (lambda line: edit(line, "steps", 0, "colour", to="red"), r"step 1: colour: extra inputs are not permitted"),
        (lambda line: line["steps"][1].pop("need_loss"), r"step 2: need_loss: field required"),
        (lambda line: line.pop("prompt"), r":1: prompt: field required"),
        (lambda line: edit(line, "steps", 1, "inspect", "refine", to=""), r"zebra, step 2: found a rejection without"),
        (lambda line: edit(line, "steps", 1, "image", to="images/lost.png"), r"zebra, step 2: found no picture .*lost.png"),
        (lambda line: edit(line, "steps", 0, "image", to="../secret.png"), r"zebra, step 1: .*one inside the folder"),
        (lambda line: edit(line, "steps", 0, "image", to="/etc/secret.png"), r"zebra, step 1: .*one inside the folder"),
        (lambda line: edit(line, "final", to="images/zebra-01.png"), r"zebra, step 3: .*not the last step's"),
        (lambda line: edit(line, "format", to=2), r":1: found format 2; this editkit knows 1"),
    ],
)
def test_a_malformed_line_is_refused_with_the_step_and_the_reason(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write_traces(tmp_path, [TRACE])
    line = json.loads((tmp_path / "traces.jsonl").read_text())
    change(line)
    (tmp_path / "traces.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=message):
        list(read_traces(tmp_path))


def test_no_traces_and_no_json_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no traces.jsonl"):
        list(read_traces(tmp_path))
    for text in ("{\n", "[]\n"):
        (tmp_path / "traces.jsonl").write_text(text)
        with pytest.raises(UserError, match=r"traces.jsonl:1: "):
            list(read_traces(tmp_path))


def test_a_conversation_has_the_shape_that_public_trainers_read() -> None:
    """Keys and flags as in `multi_think_interleave_t2i_dataset.py` of Interleaving-Reasoning-Generation."""
    user, assistant = to_conversation(TRACE)
    expected = {
        "role": "user",
        "content": "Please create the image step-by-step: a zebra right of a meter",
        "need_loss": False,
    }
    assert user == expected
    assert assistant["role"] == "assistant"
    parts = assistant["content"]
    assert [p["type"] for p in parts] == ["text", "image", "text"] * 3
    assert all(isinstance(p["content"], str) for p in parts)
    assert [p["need_loss"] for p in parts if p["type"] == "image"] == [True, False, True]
    assert base64.b64decode(parts[1]["content"]) == DRAWN[0].read_bytes()
    json.dumps([user, assistant])


def test_only_a_picture_that_nothing_follows_is_no_context() -> None:
    def context(trace: PlanTrace) -> list[tuple[bool, bool]]:
        parts = to_conversation(trace)[1]["content"]
        return [(p["need_vae"], p["need_vit"]) for p in parts if p["type"] == "image"]

    assert context(TRACE) == [(True, True)] * 3
    silent = replace(TRACE, steps=(*STEPS[:2], replace(STEPS[2], inspection=None)))
    assert context(silent) == [(True, True), (True, True), (False, False)]


@settings(max_examples=60)
@given(traces(losses=True))
def test_a_trace_comes_back_from_its_conversation(trace: PlanTrace) -> None:
    turns = json.loads(json.dumps(to_conversation(trace)))
    found = from_conversation(turns, trace.key, finished=trace.final is not None)
    assert as_bytes(found) == as_bytes(trace)
    assert trace_text(found) == trace_text(trace)


def test_conversations_come_back_from_parquet_over_several_row_groups(tmp_path: Path) -> None:
    many = [replace(t, key=f"{t.key}-{i}") for i in range(30) for t in (TRACE, VERDICT, UNDRAWN)]
    path = tmp_path / "traces.parquet"
    assert write_conversations(path, many) == 90
    assert pq.ParquetFile(path).num_row_groups > 1
    assert [as_bytes(t) for t in read_conversations(path)] == [as_bytes(t) for t in many]


def test_a_file_of_others_has_conversations_only(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    turns = to_conversation(TRACE)
    turns[0]["content"] = "a zebra right of a meter"  # their prompts have no prefix
    del turns[1]["content"][0]["need_loss"]
    pq.write_table(pa.table({"conversation": [json.dumps(turns)] * 2}), path)
    found = list(read_conversations(path))
    assert [t.key for t in found] == ["row-000000", "row-000001"]
    assert found[0].prompt == TRACE.prompt
    assert found[0].final is not None
    assert [s.need_loss for s in found[0].steps] == [s.need_loss for s in TRACE.steps]


def refused(tmp_path: Path, conversation: str | None) -> str:
    path = tmp_path / "bad.parquet"
    row = {"conversation": conversation, "key": "bad", "finished": None, "scene": None, "licence": None}
    pq.write_table(pa.Table.from_pylist([row], CONVERSATION), path)
    with pytest.raises(TraceError) as error:
        list(read_conversations(path))
    return str(error.value)


def test_conversations_of_another_shape_are_refused(tmp_path: Path) -> None:
    assert "bad: found a conversation or a scene that is no JSON" in refused(tmp_path, "{")
    assert "bad: found a conversation or a scene that is no JSON" in refused(tmp_path, None)
    assert "bad: found other turns" in refused(tmp_path, "[]")
    assert "bad: found other turns" in refused(tmp_path, json.dumps([{"role": "user"}, {"role": "assistant"}]))
    user, assistant = to_conversation(TRACE)
    assert "bad: found other turns" in refused(tmp_path, json.dumps([user, assistant, user]))
    for part, why in (
        ({"type": "text", "content": "Looks fine to me."}, "bad, step 1: found 'Looks fine to me.'"),
        ({"type": "video", "content": "x"}, "bad: found part 3 of type 'video'"),
        ({"type": "image", "content": "%%"}, "bad: found part 3 with a picture that cannot be read"),
        ({"type": "image", "content": "aGVsbG8="}, "bad: found part 3 with a picture that cannot be read"),
        ({"type": "image", "content": assistant["content"][1]["content"]}, "bad, step 1: found a second picture"),
    ):
        parts = [*assistant["content"][:2], part, *assistant["content"][3:]]
        assert why in refused(tmp_path, json.dumps([user, {"role": "assistant", "content": parts}]))
    orphan = [{"type": "text", "content": "The image is correct."}]
    assert "expected a plan first" in refused(tmp_path, json.dumps([user, {"role": "assistant", "content": orphan}]))


def test_a_file_without_conversations_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match='found the columns image; expected "conversation"'):
        list(read_conversations(tmp_path / "other.parquet"))


def test_edit_pairs_start_from_the_picture_before_and_never_end_in_a_faulty_draft() -> None:
    (mended,) = to_edit_pairs(TRACE)
    assert mended.source == DRAWN[1]  # the faulty draft
    assert mended.target == DRAWN[2]
    assert mended.instructions == (REJECTED.refine, "erase one zebra")
    assert mended.category == "refine"
    assert (mended.source_caption, mended.target_caption) == ("a zebra right of the meter", "one zebra")
    assert mended.licence == "CC0 1.0"
    plain = replace(TRACE, steps=(STEPS[0], replace(STEPS[1], inspection=None, need_loss=NeedLoss()), STEPS[2]))
    assert [p.instructions for p in to_edit_pairs(plain)] == [("add a zebra",), ("erase one zebra",)]
    assert [p.category for p in to_edit_pairs(plain)] == ["step", "step"]
    assert [p.key for p in to_edit_pairs(plain)] == ["zebra-02", "zebra-03"]


def test_a_plan_that_was_never_drawn_gives_no_pair() -> None:
    (only,) = to_edit_pairs(UNDRAWN)
    assert (only.source, only.target) == (DRAWN[0], DRAWN[2])
