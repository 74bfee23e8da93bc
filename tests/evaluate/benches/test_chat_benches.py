"""GenEval 2, T2I-CompBench and WISE: their forms read and written, their formulas, and a real server that judges."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.benches.chat_bench import ChatBench, mean_over
from editkit.evaluate.benches.chat_run import print_chat
from editkit.evaluate.benches.compbench import WHAT, CompBench
from editkit.evaluate.benches.geneval2 import GenEval2, geometric_mean
from editkit.evaluate.benches.wise import LAST_IDS, WEIGHTS, Wise, category_of, wiscore
from editkit.models.chat import client as chat_client
from tests.build.chat_server import ChatServer
from tests.evaluate.benches.asked import judged, refused
from tests.evaluate.test_generate_file import run_of
from tests.tiny import tiny_bagel_parts

# Lines of our own in the published forms.
GENEVAL2 = [
    {"prompt": "two red cups", "atom_count": 3, "skills": ["count", "attribute", "object"],
     "vqa_list": [["How many cups?", "two"], ["Are the cups red?", "Yes"], ["Is there a cup?", "Yes"]]},
    {"prompt": "a bell on a star", "atom_count": 4, "skills": ["object", "position"],
     "vqa_list": [["Is there a bell?", "Yes"], ["Is a cat there?", "No"]]},
]  # fmt: skip
WISE = [
    {"Prompt": f"prompt {i}", "Explanation": "a solution", "Category": "any", "Subcategory": f"kind {i}", "prompt_id": i}
    for i in (3, 500, 600, 750, 850, 950)
]
PROMPTS = {"geneval2": "geneval2_data.jsonl", "t2i-compbench": "color_val.txt", "wise": "natural_science.json"}
BENCHES: dict[str, ChatBench] = {"geneval2": GenEval2(), "t2i-compbench": CompBench(), "wise": Wise()}


@pytest.fixture
def server(running: ChatServer, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    """A judge, and a prompt file of each bench, in an empty folder."""
    monkeypatch.setattr(chat_client, "FIRST_WAIT_S", 0.02)
    running.log.unlink(missing_ok=True)
    Path("judge.toml").write_text(f'[chat]\nurl = "{running.url}"\nmodel = "any"\nattempts = 2\n')
    Path("geneval2_data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in GENEVAL2))
    Path("color_val.txt").write_text("a red cup and a blue star\tseen\na green bell.\n")
    Path("natural_science.json").write_text(json.dumps(WISE))
    return running


def scored(capsys: pytest.CaptureFixture, run: str, bench: str, *arguments: str) -> dict[str, Any]:
    return judged(capsys, run, "--bench", bench, "--prompts", PROMPTS[bench], "--judge", "judge.toml", *arguments)


def paint(path: str, light: float) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (round(255 * light),) * 3).save(path)


def test_geneval2_asks_every_question_and_writes_what_its_scripts_read(
    server: ChatServer, capsys: pytest.CaptureFixture
) -> None:
    paint("drawn/1.png", 0.1)  # two of everything, and every answer is yes
    paint("drawn/2.png", 1.0)  # every answer is no
    Path("paths.json").write_text(json.dumps({"two red cups": "drawn/1.png", "a bell on a star": "drawn/2.png"}))
    found = scored(capsys, "paths.json", "geneval2")
    rows = [json.loads(line) for line in Path(found["results"]).read_text().splitlines()]
    assert [row["parts"]["atoms"] for row in rows] == [[1, 1, 1], [0, 1]]
    assert [json.loads(Path(f).read_text()) for f in found["files"]] == [[[1, 1, 1], [0, 1]]]
    figures = {name: value["value"] for name, value in found["figures"].items()}
    assert figures["TIFA GM (prompts)"] == 0.5
    assert figures["TIFA AM (questions of a prompt)"] == 0.75
    assert figures["questions: object"] == 0.5
    assert figures["questions: count"] == figures["questions: position"] == 1
    assert (figures["prompts of 3 atoms"], figures["prompts of 4 atoms"]) == (1, 0)
    assert found["official"] is False
    assert found["served_by"] == ["loopback-1"]
    assert len(server.requests()) == 5
    texts = [request["caption"] for request in server.requests()]
    assert sum("How many cups?" in text and "digits" in text for text in texts) == 1
    assert scored(capsys, "paths.json", "geneval2") == found
    assert len(server.requests()) == 5, "nothing is asked twice"
    print_chat(found)
    shown = capsys.readouterr().out
    assert "judged by loopback-1" in shown
    assert "not the official score" in shown
    assert "50.00 % ± 50.00" in shown


def test_compbench_reads_pictures_by_the_names_of_its_prompts(server: ChatServer, capsys: pytest.CaptureFixture) -> None:
    for number, light in ((7, 1.0), (9, 0.5)):  # numbers count all pictures, whatever the order
        paint(f"theirs/samples/a red cup and a blue star_{number:06d}.png", light)
    for number in (1, 2):
        paint(f"theirs/samples/a green bell._{number:06d}.png", 0.25)
    found = scored(capsys, "theirs", "t2i-compbench")
    assert found["samples"] == 2
    assert found["figures"]["color: of the prompt shown"]["value"] == pytest.approx((0.75 + 0.25) / 2)
    assert json.loads(Path(found["files"][0]).read_text()) == [
        {"question_id": 1, "answer": "0.2500"},
        {"question_id": 2, "answer": "0.2500"},
        {"question_id": 7, "answer": "1.0000"},
        {"question_id": 9, "answer": "0.5000"},
    ]
    assert WHAT["color"] in server.requests()[0]["caption"]
    assert not Path("theirs/results.jsonl").exists()


def test_wise_has_its_score_and_its_weights(server: ChatServer, capsys: pytest.CaptureFixture) -> None:
    for entry, light in zip(WISE, (1.0, 0.5, 0.0, 1.0, 1.0, 0.0), strict=True):
        paint(f"theirs/{entry['prompt_id']}.png", light)
    found = scored(capsys, "theirs", "wise")
    expected = 0.4 * 1 + 0.167 * 0.5 + 0.133 * 0 + 0.1 * 1 + 0.1 * 1 + 0.1 * 0
    assert found["figures"]["WiScore"]["value"] == pytest.approx(expected)
    assert found["figures"]["time"]["value"] == pytest.approx(0.5)
    lines = [json.loads(line) for line in Path(found["files"][0]).read_text().splitlines()]
    assert lines[1] == {"prompt_id": 500, "Subcategory": "kind 500", "consistency": 1, "realism": 1, "aesthetic_quality": 1}
    Path("natural_science.json").write_text(json.dumps(WISE[3:]))
    found = scored(capsys, "theirs", "wise")
    assert "WiScore" not in found["figures"], "it is of all six categories"
    assert found["figures"]["mean of the prompts"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("bench", list(PROMPTS))
def test_a_run_is_drawn_where_the_scorer_looks_and_goes_on(
    bench: str, server: ChatServer, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    run_of(workplace / "runs" / "direct", "unified", tiny_bagel_parts())
    samples = 2 if bench == "t2i-compbench" else 1
    given = ["--samples", str(samples)]
    found = scored(capsys, "direct", bench, *given)
    folder = Path("runs/direct/evaluation") / bench / Path(PROMPTS[bench]).stem
    assert Path(found["folder"]) == folder
    items = BENCHES[bench].read(Path(PROMPTS[bench]))
    names = [folder / BENCHES[bench].picture(item, n, samples) for item in items for n in range(samples)]
    assert sorted(folder.rglob("*.png")) == sorted(names)
    assert [p for those in BENCHES[bench].pictures(folder, items) for p in those] == names
    before = {path: path.read_bytes() for path in names}
    names[0].unlink()
    assert scored(capsys, "direct", bench, *given) == found
    assert {path: path.read_bytes() for path in names} == before
    assert scored(capsys, str(folder), bench)["figures"] == found["figures"], "as a folder that is there"
    again = scored(capsys, "direct", bench, *given, "--against", found["results"])
    assert again["against"]["difference"] == 0


def test_an_answer_that_cannot_be_used_counts_as_wrong_and_is_told(server: ChatServer, capsys: pytest.CaptureFixture) -> None:
    Path("color_val.txt").write_text("a cup [malformed always]\na star [429 once]\n")
    for number, prompt in enumerate(("a cup [malformed always]", "a star [429 once]")):
        paint(f"theirs/samples/{prompt}_{number:06d}.png", 1.0)
    found = scored(capsys, "theirs", "t2i-compbench")
    assert found["unanswered"] == 1
    assert found["figures"]["color: of the prompt shown"]["value"] == 0.5
    print_chat(found)
    assert "1 questions brought no usable answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs", "--bench", "wise"], "found no prompts, which editkit may not bring along"),
        (["runs", "--bench", "wise", "--prompts", "wise.json", "--judge", "mask2former"], "is judged by a chat model"),
        (["runs", "--bench", "wise", "--prompts", "wise.json", "--judge", "eyes.toml"], "give it [chat]"),
        (["runs", "--bench", "wise", "--prompts", "nowhere.json", "--judge", "judge.toml"], "nowhere.json: cannot be read"),
        (["nowhere", "--bench", "wise", "--prompts", "natural_science.json", "--judge", "judge.toml"], "found no model at"),
        (["half", "--bench", "wise", "--prompts", "natural_science.json", "--judge", "judge.toml"], "found 0 of 1 pictures"),
        (["half", "--bench", "wise", "--prompts", "x", "--judge", "judge.toml", "--samples", "4"], "one picture a prompt"),
        (["half", "--bench", "wise", "--pairs", "4"], "--pairs: found it with --bench wise"),
        (["half", "--bench", "wise", "--prompts", "natural_science.json", "--judge", "lost.toml"], "no environment variable"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments: list[str], words: str, server: ChatServer, capsys: pytest.CaptureFixture) -> None:
    Path("eyes.toml").write_text("[mask2former]\n")
    Path("lost.toml").write_text(f'[chat]\nurl = "{server.url}"\nmodel = "any"\nkey_env = "NO_SUCH_KEY"\n')
    paint("half/500.png", 1.0)
    if "lost.toml" in arguments:
        for entry in WISE:
            paint(f"half/{entry['prompt_id']}.png", 1.0)
    assert words in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("bench", "text", "words"),
    [
        ("geneval2", "", "found no prompt"),
        ("geneval2", "\n{", ":2: found no prompt of GenEval 2"),
        ("geneval2", '{"prompt": "a cup"}', ":1: found no prompt of GenEval 2"),
        ("geneval2", json.dumps(GENEVAL2[0] | {"skills": ["count"]}), "found 3 questions and 1 skills"),
        ("geneval2", json.dumps(GENEVAL2[1] | {"vqa_list": [["a?", "Yes"], ["b?", "maybe"]]}), "with Yes, No or a number"),
        ("wise", "{}", "found no list of prompts"),
        ("wise", json.dumps([WISE[0] | {"Explanation": ""}]), "entry 1: expected the texts"),
        ("wise", json.dumps([WISE[0] | {"prompt_id": 1001}]), "found prompt_id = 1001"),
        ("wise", json.dumps([WISE[0], WISE[0]]), "found prompt_id 3 twice"),
        ("t2i-compbench", "\n", "found no prompt"),
        ("t2i-compbench", "a cup/star\n", "could not read from the name"),
    ],
)
def test_a_prompt_file_of_another_form_is_named(bench: str, text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / PROMPTS[bench]
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        BENCHES[bench].read(path)


def test_the_categories_of_wise_and_of_compbench_are_the_published_ones(tmp_path: Path) -> None:
    sizes = {name: sum(category_of(i) == name for i in range(1, 1001)) for name in LAST_IDS}
    assert sizes == {"cultural": 400, "time": 167, "space": 133, "biology": 100, "physics": 100, "chemistry": 100}
    assert pytest.approx({name: size / 1000 for name, size in sizes.items()}) == WEIGHTS
    (tmp_path / "sizes_val.txt").write_text("a cup\n")
    with pytest.raises(UserError, match="found the category sizes"):
        CompBench().read(tmp_path / "sizes_val.txt")


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=12))
def test_the_geometric_mean_is_one(values: list[float]) -> None:
    assert geometric_mean(values) == pytest.approx(math.prod(values) ** (1 / len(values)))
    assert geometric_mean([*values, 0.0]) == 0
    assert geometric_mean(values) <= sum(values) / len(values) + 1e-12


@given(*[st.integers(0, 2)] * 3)
def test_wiscore_is_the_published_formula(consistency: int, realism: int, beauty: int) -> None:
    assert wiscore(consistency, realism, beauty) == pytest.approx((0.7 * consistency + 0.2 * realism + 0.1 * beauty) / 2)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_of_groups_of_one_the_error_is_that_of_a_mean(values: list[float]) -> None:
    found = mean_over((value, 1) for value in values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-9)
    assert found.prompts == len(values)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=20))
def test_questions_of_a_prompt_are_not_counted_as_independent(right: list[int]) -> None:
    once = mean_over((r / 4, 1) for r in right)
    four_each = mean_over((float(r), 4) for r in right)
    assert four_each.value == pytest.approx(once.value)
    assert four_each.stderr == pytest.approx(once.stderr, abs=1e-9)


def test_nothing_has_no_mean_and_one_prompt_no_error() -> None:
    assert math.isnan(mean_over([]).value)
    assert math.isnan(mean_over([(1.0, 2)]).stderr)
