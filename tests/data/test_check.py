"""The doctor on a folder as people have it, and on what it may take a hundred thousand times: the same with many processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from editkit.cli import main
from editkit.data.read import open_dataset
from tests.data.doctor.looked import check_dataset
from tests.data.test_formats import HEAD
from tests.tiny import picture


@pytest.fixture
def faulty(workplace: Path) -> str:
    data = workplace / "edits"
    data.mkdir()
    rows = []
    for i in range(120):
        picture("red").save(data / f"{i}-a.png")
        picture("blue").save(data / f"{i}-b.png")
        rows.append({"before": f"{i}-a.png", "after": f"{i}-b.png", "text": "make it blue"})
    (data / "3-b.png").write_bytes(b"")
    (data / "50-a.png").unlink()
    picture("red").save(data / "70-b.png")
    picture("blue", (64, 64)).save(data / "99-b.png")
    rows[110]["text"] = "  "
    picture("green").save(data / "nobody.png")
    (data / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    columns = '[read.columns]\nsource = "before"\ntarget = "after"\ninstruction = "text"\n'
    (workplace / "mine.toml").write_text(f'{HEAD}layout = "folder"\npath = "edits"\n{columns}')
    return "mine.toml"


EXPECTED = [
    ("unreadable", "000003", 3), ("orphan", "000050", 50), ("identical pair", "000070", 70), ("size mismatch", "000099", 99),
    ("empty text", "000110", 110),
]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_every_fault_is_found_in_order_by_any_number_of_processes(faulty: str, workers: int) -> None:
    found = check_dataset(open_dataset(faulty), workers=workers)
    *of_pairs, of_file = found.items
    assert [(f.kind, f.key, f.index) for f in of_pairs] == EXPECTED
    assert (of_file.kind, Path(of_file.key).name) == ("orphan", "nobody.png")
    assert found.count == 120


def test_the_verb_says_it_in_lines_leaves_with_one_and_draws_a_sheet(faulty: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", faulty])
    assert left.value.code == 1
    shown = capsys.readouterr().out
    for kind, key, _ in EXPECTED:
        assert f"{kind}: {key}: " in shown
    sheet = Path(shown.rsplit("contact sheet: ", 1)[1].strip())
    assert Image.open(sheet).width > 500


def test_a_sound_set_leaves_with_zero_and_json_is_only_json(faulty: str, capsys: pytest.CaptureFixture) -> None:
    rows = [json.loads(s) for s in Path("edits/metadata.jsonl").read_text().splitlines()]
    sound = [r for i, r in enumerate(rows) if i not in {index for _, _, index in EXPECTED}]
    Path("edits/metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in sound))
    used = {r[role] for r in sound for role in ("before", "after")}
    for file in Path("edits").glob("*.png"):
        if file.name not in used:
            file.unlink()
    with pytest.raises(SystemExit) as left:
        main(["check", faulty, "--json"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"] == {"examples": 115, "kinds": {}, "findings": []}
