"""The log of decisions: added to and never changed, whole behind a kill, used by the next build and by the fixed copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.build import build
from editkit.data.decisions import Decision, Decisions, log_of
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.train.check import check
from tests.tiny import avatars_spec

SPEC = avatars_spec(6, 3, 32)
DECISIONS = st.builds(
    Decision,
    split=st.sampled_from(["train", "test"]),
    key=st.sampled_from(["a", "b", "ü\n"]),
    verdict=st.sampled_from(["accepted", "rejected", "open"]),
    instruction=st.sampled_from(["", "make it red", 'say "x"\u2028']),
)


@given(st.lists(DECISIONS, max_size=12))
def test_the_last_word_counts_here_and_when_the_log_is_read_again(tmp_path_factory: pytest.TempPathFactory, said: list) -> None:
    path = tmp_path_factory.mktemp("log") / "a.decisions.jsonl"
    log = Decisions(path)
    for decision in said:
        log.add(decision)
    last = {(d.split, d.key): (d.verdict, d.instruction) for d in said}
    for one in (log, Decisions(path)):
        assert {at: (d.verdict, d.instruction) for at in last for d in [one.of(*at)]} == last
        assert one.digest() == log.digest()
        assert set(one.effective()) == {at for at, (verdict, words) in last.items() if verdict == "rejected" or words}
    assert bool(log.digest()) == bool(log.effective())
    if said:
        assert len(path.read_bytes().splitlines()) == len(said)


def test_a_line_that_a_kill_cut_off_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.decisions.jsonl"
    Decisions(path).add(Decision("train", "a", "rejected"))
    with path.open("ab") as file:
        file.write(b'{"split": "train", "key": "b", "verd')
    log = Decisions(path)
    assert len(log) == 1
    log.add(Decision("train", "c", "accepted"))
    assert set(Decisions(path).all()) == {("train", "a"), ("train", "c")}


@pytest.mark.parametrize("line", ["{}", '{"split": "train", "key": "a", "verdict": "maybe"}', '{"split": 1', '"x"'])
def test_a_line_that_is_no_decision_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.decisions.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match="line 1 is no decision"):
        Decisions(path)


def test_the_log_of_a_spec_is_that_of_its_folder(workplace: Path) -> None:
    Path("small.toml").write_text(SPEC)
    assert log_of("s3://bucket/sets/small/") == Path("data/small.decisions.jsonl")
    assert log_of("small.toml") == log_of("data/small") == log_of("data/small/") == Path("data/small.decisions.jsonl")


def test_the_next_build_leaves_out_what_was_rejected_and_says_what_was_rewritten(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("small.toml").write_text(SPEC)
    folder = build("small.toml")
    before = [open_dataset(str(folder), "train")[i] for i in range(6)]
    manifest = (folder / "dataset.json").read_bytes()
    log = Decisions(log_of("small.toml"))
    log.add(Decision("train", before[1].key, "rejected"))
    log.add(Decision("train", before[2].key, "accepted", "do something else"))
    log.add(Decision("train", before[3].key, "rejected"))
    log.add(Decision("train", before[3].key))
    capsys.readouterr()
    build("small.toml")
    assert "data/small.decisions.jsonl: 1 accepted, 1 rejected, 1 rewritten" in capsys.readouterr().out
    after = open_dataset(str(folder), "train")
    assert [after[i].key for i in range(len(after))] == [p.key for p in before if p.key != before[1].key]
    assert after[1].instructions == ("do something else",)
    assert after[0].instructions == before[0].instructions
    made = json.loads((folder / "dataset.json").read_text())
    assert made["provenance"]["decisions"] == {"sha256": log.digest(), "accepted": 1, "rejected": 1, "rewritten": 1}
    assert made["counts"] == {"train": 5, "test": 3}
    log.path.unlink()
    build("small.toml")
    assert (folder / "dataset.json").read_bytes() == manifest


def test_a_fixed_copy_uses_them_without_a_new_build(workplace: Path) -> None:
    Path("small.toml").write_text(SPEC)
    folder = build("small.toml")
    before = open_dataset(str(folder), "train")
    log = Decisions(log_of("small.toml"))
    log.add(Decision("train", before[1].key, "rejected"))
    log.add(Decision("train", before[2].key, "accepted", "do something else"))
    check("small.toml", fix="copy")
    after = open_dataset("copy", "train")
    pairs = {p.key: p.instructions for p in (after[i] for i in range(len(after)))}
    assert before[1].key not in pairs
    assert pairs[before[2].key] == ("do something else",)
    done = [json.loads(line) for line in Path("copy/fixes.jsonl").read_text().splitlines()]
    assert [(d["key"], d["done"]) for d in done if d["kind"] == "decision"] == [
        (before[1].key, "dropped"), (before[2].key, "repaired"),
    ]  # fmt: skip
