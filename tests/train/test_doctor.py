"""`editkit check` on a folder with every kind of fault: what it says, its report, its exit code, its fixed copy."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from editkit.build.fixed_copy import write_fixed_copy
from editkit.cli import main
from editkit.data.doctor.findings import KINDS
from editkit.data.examples import SCORE
from editkit.data.read import open_dataset
from editkit.data.spec import load_spec, spec_hash
from editkit.errors import UserError
from editkit.lab.avatar_edits import sample_edits
from tests.bench.faults import FAULTS

HEAD = 'format = 1\nname = "mine"\nkind = "edit_pairs"\n[split]\ntest = 0.0\n[read]\nlayout = "folder"\npath = "{folder}"\n'
COLUMNS = """[read.columns]
source = "before"
target = "after"
instruction = "text"
category = "kind"
key = "name"
score = "score"
"""
PLANTED = [k for k in FAULTS if k not in ("swapped", "nearly identical pair")]  # the first needs many pairs to be known


def write_folder(folder: Path, pairs: list) -> None:
    folder.mkdir()
    rows = []
    for pair in pairs:
        for role in ("source", "target"):
            if getattr(pair, role).data:
                (folder / f"{pair.key}-{role}.png").write_bytes(getattr(pair, role).data)
        rows.append({"name": pair.key, "before": f"{pair.key}-source.png", "after": f"{pair.key}-target.png",
                     "text": list(pair.instructions), "kind": pair.category, "score": pair.scores.get(SCORE)})  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture
def faulty(workplace: Path) -> dict[str, str]:
    """Writes mine.toml; key of each faulty pair -> its fault."""
    rng, planted = Random(1), {}
    drawn = [p for p in sample_edits(36, seed=31, split="train", size=48) if p.category == "expression"]
    drawn += [p for p in sample_edits(100, seed=32, split="train", size=48) if p.category == "colour"]
    pairs = [replace(p, scores={SCORE: 0.8}) for p in drawn]
    pairs = [replace(pair, key=f"pair-{number:03d}") for number, pair in enumerate(pairs)]
    for number, kind in enumerate(PLANTED):
        planted[pairs[number].key] = kind
        pairs[number] = FAULTS[kind](pairs[number], rng)
    write_folder(workplace / "edits", pairs)
    write_folder(workplace / "bench", [replace(pairs[-1], key="held-out")])
    (workplace / "mine.toml").write_text(
        HEAD.format(folder="edits") + COLUMNS + '[check]\nleaks_from = ["bench.toml"]\nmin_score = 0.5\n'
        '[fix]\nrepair = ["orientation", "size mismatch"]\ndrop = ["unreadable", "orphan", "empty text", "leak"]\n'
    )
    (workplace / "bench.toml").write_text(HEAD.format(folder="bench").replace("mine", "bench") + COLUMNS)
    return planted | {pairs[-1].key: "leak"}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["check", *arguments])
    return int(left.value.code or 0)


def test_everything_is_named_shown_and_fixed_in_a_copy(faulty: dict[str, str], capsys: pytest.CaptureFixture) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path("edits").iterdir()}
    assert run("mine.toml", "--json", "--fix", "fixed") == 1
    said = json.loads(capsys.readouterr().out)

    found = {(f["key"], f["kind"]) for f in said["splits"]["train"]["findings"]}
    assert set(faulty.items()) <= found
    assert {f["severity"] for f in said["splits"]["train"]["findings"]} == {"error", "warning"}
    assert sum(said["by_category"]["colour"].values()) + sum(said["by_category"]["expression"].values()) >= len(found)

    html = Path(said["report"]).read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html)  # nothing is asked for from elsewhere
    assert "<script" not in html
    for kind in faulty.values():
        assert f'id="{kind.replace(" ", "-")}"' in html
        assert KINDS[kind].meaning in unescape(html)
    pictures = re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", html)
    assert len(pictures) > 2 * len(faulty)
    assert all(Image.open(io.BytesIO(base64.b64decode(p))).width <= 160 for p in pictures)

    fixed = open_dataset("fixed")
    kept = {fixed[i].key: fixed[i] for i in range(len(fixed))}
    by_kind = {kind: key for key, kind in faulty.items()}
    assert not {by_kind[k] for k in ("unreadable", "orphan", "empty text", "leak")} & kept.keys()
    assert {by_kind[k] for k in ("identical pair", "shift", "low score")} <= kept.keys()  # [fix] does not name them
    resized = kept[by_kind["size mismatch"]]
    assert resized.source.size() == resized.target.size()
    log = [json.loads(line) for line in Path("fixed/fixes.jsonl").read_text().splitlines()]
    assert {(e["key"], e["done"]) for e in log} >= {(by_kind["orientation"], "repaired"), (by_kind["leak"], "dropped")}
    assert said["fixed"]["kept"] == {"train": len(fixed)}
    assert {p: p.stat().st_mtime_ns for p in Path("edits").iterdir()} == before  # nothing of the original is touched

    assert run("fixed", "--json") == 1  # what [fix] left is still there, what it mended is not
    again = json.loads(capsys.readouterr().out)["splits"]["train"]["findings"]
    assert not {f["kind"] for f in again} & {"unreadable", "orphan", "empty text", "orientation", "size mismatch"}


def test_evaluation_sets_can_be_named_on_the_command_line(faulty: dict[str, str], capsys: pytest.CaptureFixture) -> None:
    spec = Path("mine.toml")
    spec.write_text(spec.read_text().replace('leaks_from = ["bench.toml"]', ""))
    assert run("mine.toml", "--json", "--leaks-from", "bench.toml") == 1
    findings = json.loads(capsys.readouterr().out)["splits"]["train"]["findings"]
    leaks = [f for f in findings if f["kind"] == "leak"]
    assert [f["key"] for f in leaks] == [key for key, kind in faulty.items() if kind == "leak"]
    assert leaks[0]["figures"]["same_instruction"] == 1


MISTAKES = [
    (["mine.toml", "--fix", "edits"], lambda _: None, "edits is there already"),
    (["mine.toml", "--leaks-from", "nowhere"], lambda _: None, "nowhere: found no data set"),
    (["mine.toml"], lambda text: text.replace('"unreadable"', '"unreadible"'), 'did you mean "unreadable"?'),
    (["mine.toml"], lambda text: text.replace("min_score", "min_scores"), 'did you mean "min_score"?'),
]


@pytest.mark.parametrize(("arguments", "change", "words"), MISTAKES)
def test_bad_usage_is_one_line_and_leaves_with_two(
    workplace: Path, arguments: list[str], change: Callable, words: str, capsys: pytest.CaptureFixture
) -> None:
    write_folder(workplace / "edits", sample_edits(3, seed=1, size=32))
    text = HEAD.format(folder="edits") + COLUMNS + '[check]\nmin_score = 0.5\n[fix]\ndrop = ["unreadable"]\n'
    Path("mine.toml").write_text(change(text) or text)
    assert run(*arguments) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


def test_warnings_alone_leave_with_zero(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    pairs = [replace(p, scores={SCORE: 0.8}) for p in sample_edits(6, seed=1, size=32)]
    write_folder(workplace / "edits", [replace(pairs[0], scores={SCORE: 0.1}), *pairs[1:]])
    Path("mine.toml").write_text(HEAD.format(folder="edits") + COLUMNS + "[check]\nmin_score = 0.5\n")
    assert run("mine.toml") == 0
    assert f"low score: {pairs[0].key}: its score is 0.1, below 0.5" in capsys.readouterr().out


def test_what_the_doctor_is_told_does_not_make_a_built_set_stale(tmp_path: Path) -> None:
    body = 'format = 1\nname = "a"\nkind = "edit_pairs"\n[build]\nbuilder = "avatars"\ntrain = 1\ntest = 1\n'
    hashes = set()
    for more in ("", '[check]\nleaks_from = ["x"]\n', '[fix]\ndrop = ["leak"]\n'):
        (tmp_path / "a.toml").write_text(body + more)
        hashes.add(spec_hash(load_spec(tmp_path / "a.toml")[0]))
    assert len(hashes) == 1


def test_a_fixed_copy_never_replaces_anything(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is ever overwritten"):
        write_fixed_copy(tmp_path, {}, None, None, "x")  # ty: ignore[invalid-argument-type]
