"""`editkit check` of a data spec: what it would read, whether the data are there or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from editkit.cli import main
from editkit.data.pictures import PictureError
from editkit.data.plan import REFERENCES_UNUSED
from editkit.data.read import open_dataset
from tests.data.shapes import jsonl, png
from tests.data.test_public_sets import SPECS, placed


def leaves_with(arguments: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    capsys.readouterr()  # what made the data said something too
    with pytest.raises(SystemExit) as left:
        main(arguments)
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out + captured.err


def test_what_is_not_here_is_described(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(SPECS, "data_specs")
    code, said = leaves_with(["check", "data_specs/magicbrush.toml"], capsys)
    assert code == 1
    for words in (
        "CC-BY-4.0",
        "8,807",
        "528",
        "source_img",
        "hf://datasets/osunlp/MagicBrush@main",
        "hf download",
        "not here: ",
    ):
        assert words in said
    code, said = leaves_with(["check", "data_specs/magicbrush.toml", "--json"], capsys)
    found = json.loads(said)
    assert code == 1
    assert found["splits"] == {}
    assert found["spec"]["rows expected"] == 8_807
    assert found["spec"]["columns"]["target"] == ["target_img"]
    assert found["spec"]["unverified"] == ["expect.rows", "read.mask_shows"]
    assert "HF_HUB_OFFLINE" in found["why"]


def test_what_is_here_is_described_checked_and_counted(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    path, _ = placed("magicbrush", workplace)
    code, said = leaves_with(["check", path, "--json"], capsys)
    found = json.loads(said)
    assert code == 1
    assert found["spec"]["here"]
    assert [f["why"] for s in ("train", "test") for f in found["splits"][s]["findings"]] == [
        "found 2 rows, its authors say 8,807; is all of it here?",
        "found 1 rows, its authors say 528; is all of it here?",
    ]


@pytest.mark.parametrize("name", ["cartoonization", "hq_edit"])
def test_a_whole_data_set_leaves_with_nothing_found(name: str, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    path, _ = placed(name, workplace)
    text = Path(path).read_text().replace("expect.rows = 5_000", "expect.rows = 1").replace("98_675", "1")
    Path(path).write_text(text)
    code, said = leaves_with(["check", path], capsys)
    assert code == 0, said


def test_an_evaluation_set_has_one_split(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    path, _ = placed("gedit_bench", workplace)
    _, said = leaves_with(["check", path, "--json"], capsys)
    found = json.loads(said)
    assert list(found["splits"]) == ["test"]
    assert found["spec"]["not read"] == ["instruction_language", "input_image_raw", "Intersection_exist"]


def test_references_that_training_does_not_use_are_said(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    path, _ = placed("x2i2", workplace)
    code, said = leaves_with(["check", path], capsys)
    assert code == 0
    assert REFERENCES_UNUSED.partition(";")[0] in " ".join(said.replace("│", " ").split())


def test_a_column_that_is_not_there_is_named(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    path, _ = placed("nhr_edit", workplace)
    Path(path).write_text(Path(path).read_text().replace('"source_file_name"', '"source_fil"'))
    code, said = leaves_with(["check", path], capsys)
    assert code == 2
    assert 'source: found no column "source_fil"; did you mean "source_file_name"?' in said


@pytest.mark.parametrize(
    ("read", "words"),
    [
        ('turns = {each = "data", target = "x"}', "expected each"),
        ('turns = {instruction = "i_{n}"}', "expected each"),
        ('keep = [{column = "score"}]', "expected at_least"),
        ('test_split = "dev"', "test_split is for layout"),
        ('mask_shows = "grey"', "mask_shows"),
        ('fils = "*.tar"', 'unknown key "read.fils"; did you mean "files"?'),
    ],
)
def test_a_mistake_in_a_spec_is_one_line(read: str, words: str, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    head = 'format = 1\nname = "mine"\nkind = "edit_pairs"\n[read]\nlayout = "folder"\npath = "mine"\n'
    Path("mine.toml").write_text(head + read + "\n")
    code, said = leaves_with(["check", "mine.toml"], capsys)
    assert code == 2
    assert words in said
    assert "Traceback" not in said


def test_rows_of_a_session_and_both_ways_of_an_edit_share_a_split(workplace: Path) -> None:
    rows = [
        {"source": "a.png", "target": "a.png", "instruction": f"{n}", "back": "back", "session": f"s{n // 4}"}
        for n in range(200)
    ]
    jsonl(workplace / "mine/metadata.jsonl", *rows)
    png(workplace / "mine/a.png", "red")
    head = 'format = 1\nname = "mine"\nkind = "edit_pairs"\n[split]\ntest = 0.3\n[read]\nlayout = "folder"\npath = "mine"\n'
    Path("mine.toml").write_text(head + '[read.columns]\ninverse = "back"\ngroup = "session"\n')
    numbers = []
    for split in ("train", "test"):
        data = open_dataset("mine.toml", split)
        keys = [data[i].key for i in range(len(data))]
        assert {k.removesuffix("-inverse") for k in keys} == {k for k in keys if "-" not in k}
        numbers.append({int(k) // 4 for k in keys if "-" not in k})
    assert not numbers[0] & numbers[1]
    assert numbers[0] | numbers[1] == set(range(50))


def test_web_addresses_and_masks_in_black_and_names_as_texts(workplace: Path) -> None:
    png(workplace / "mine/a_red_house.png", "red")
    row = {"source": "https://x.org/1.jpg", "target": "a_red_house.png", "instruction": "x", "mask": "a_red_house.png"}
    jsonl(workplace / "mine/metadata.jsonl", row)
    head = 'format = 1\nname = "mine"\nkind = "{}"\n[split]\ntest = 0.0\n[read]\npath = "mine"\n'
    Path("mine.toml").write_text(
        head.format("edit_pairs") + 'layout = "folder"\nmask_shows = "black"\n[read.columns]\nmask = "mask"\n'
    )
    example = open_dataset("mine.toml")[0]
    with pytest.raises(PictureError, match=r"^https://x\.org/1\.jpg: is a web address; download"):
        example.source.open()
    assert example.mask.open().getpixel((1, 1)) == (255, 255, 255)  # the corner is black
    assert len(set(example.mask.open().getpixel((30, 30)))) == 1
    Path("mine.toml").write_text(head.format("captioned_images") + 'layout = "images"\ntext_from = "name"\n')
    assert open_dataset("mine.toml")[0].captions == ("a red house",)
    Path("mine.toml").write_text(head.format("captioned_images") + 'layout = "images"\nphrasings = ["a photo of sks house"]\n')
    assert open_dataset("mine.toml")[0].captions == ("a photo of sks house",)


def test_a_wrong_path_of_ones_own_is_a_mistake(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(SPECS, "data_specs")
    code, said = leaves_with(["check", "data_specs/example_folder.toml"], capsys)
    assert code == 2
    assert "found no folder" in said
