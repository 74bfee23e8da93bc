"""`editkit generate --plan` by several models: the lab's editor, and a real server that plans and looks at pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from editkit.cli import main
from editkit.data.trace_files import read_traces
from editkit.lab.avatars import Avatar, render, sample_avatar
from editkit.modular.options import BackEnds
from editkit.recipe.load import load_toml_model
from tests.build.chat_server import ChatServer
from tests.modular.avatar_server import avatar_server

ROOT = Path(__file__).parent.parent.parent
BACK_ENDS = """\
format = 1
name = "served"
[editor]
model = "lab:tiny-edit"
steps = 4
[planner]
url = "{url}"
model = "{planner}"
attempts = 2
price_out = 10.0
[inspector]
url = "{url}"
model = "{inspector}"
attempts = 2
[budget]
refines = 1
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    with avatar_server(tmp_path_factory.mktemp("avatars") / "requests.jsonl") as server:
        yield server


def portrait() -> Avatar:
    changes = {"hair": "short", "hair colour": "black", "eyewear": "none", "background": "mint", "facial hair": "none"}
    avatar = sample_avatar(Random(1), "personas").with_values(changes)
    render(avatar, 64).save("start.png")
    return avatar


def generate(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["generate", *arguments])
    return left.value.code


def back_ends(url: str, planner: str = "reader", inspector: str = "reader", more: str = "") -> str:
    Path("served.toml").write_text(BACK_ENDS.format(url=url, planner=planner, inspector=inspector) + more)
    return "served.toml"


PROMPT = "a flat portrait with sunglasses and a navy background"


def test_a_server_plans_and_inspects_what_the_lab_editor_draws(
    served: ChatServer, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    portrait()
    assert generate(PROMPT, "--plan", "--run", back_ends(served.url), "--start", "start.png", "-o", "out", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unread"] == ""
    kinds = [event["kind"] for event in found["events"]]
    assert kinds[:5] == ["plan", "kept", "plan", "sketch", "verdict"]
    assert found["spent"]["calls"] == len(served.requests())
    assert found["spent"]["cost"] == pytest.approx(20 * 10 / 1e6)  # of the one plan
    assert {r["pictures"] for r in served.requests()} == {1}
    assert (found["back_ends"]["planner"], found["back_ends"]["start"]) == ("reader", "a given picture")
    trace = next(read_traces(Path("out")))
    assert trace.steps[0].ins == "Begin with the given picture"
    last = [e["image"] for e in found["events"] if "image" in e][-1]
    assert Image.open("out/picture.png").tobytes() == Image.open(Path("out") / last).tobytes()


def test_without_a_server_the_reader_of_the_world_inspects(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    portrait()
    given = ["--plan", "--run", "lab:tiny-edit", "--start", "start.png"]
    assert generate(PROMPT, *given, "-o", "out", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["back_ends"]["inspector"] == "the attribute reader of lab:judges"
    assert found["spent"]["calls"] == 0
    assert found["stopped"] == "the plan is done"
    from editkit.lab.judges import LabJudge

    reading = LabJudge("lab:judges").read([Image.open("out/picture.png").convert("RGB")])[0]
    assert (reading["eyewear"], reading["background"]) == ("sunglasses", "navy")


def test_useless_replies_are_recorded_as_such(served: ChatServer, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    portrait()
    run = back_ends(served.url, planner="malformed")
    assert generate(PROMPT, "--plan", "--run", run, "--start", "start.png", "-o", "no-plan") == 1
    assert "note: the planner gave no usable plan" in capsys.readouterr().out
    summary = json.loads(Path("no-plan/generated.json").read_text())
    assert (summary["events"][0]["kind"], summary["spent"]["calls"], summary["traces"]) == ("note", 2, None)
    run = back_ends(served.url, inspector="malformed")
    assert generate(PROMPT, "--plan", "--run", run, "--start", "start.png", "-o", "unseen") == 0
    shown = capsys.readouterr().out
    assert shown.count("note: the inspector gave no usable verdict") == 2
    trace = next(read_traces(Path("unseen")))
    assert [step.inspection for step in trace.steps] == [None] * 3


def test_a_limit_of_calls_ends_cleanly(served: ChatServer, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    portrait()
    before = len(served.requests())
    run = back_ends(served.url, more="calls = 2\n")
    assert generate(PROMPT, "--plan", "--run", run, "--start", "start.png", "-o", "out") == 0
    assert "stopped: budget: 2 calls" in capsys.readouterr().out
    assert len(served.requests()) == before + 2
    assert Path("out/picture.png").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"[planner]": "[planner]\nkey_env = 'EDITKIT_NO_SUCH_KEY'"}, "found no environment variable EDITKIT_NO_SUCH_KEY"),
        ({'"lab:tiny-edit"': '"lab:tiny-sd"'}, "so it draws from text and cannot edit"),
        ({"refines": "refine"}, 'did you mean "refines"?'),
        ({}, "http://127.0.0.1:9/v1/chat/completions: ConnectError"),
        ({'url = "http': 'url = "ftp'}, "url"),
    ],
)
def test_a_mistake_is_one_line(change: dict[str, str], words: str, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    portrait()
    run = back_ends("http://127.0.0.1:9/v1")  # where nobody listens
    text = Path(run).read_text()
    for old, new in change.items():
        text = text.replace(old, new)
    Path(run).write_text(text.replace("attempts = 2", "attempts = 1"))
    assert generate(PROMPT, "--plan", "--run", run, "--start", "start.png", "-o", "out") == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert all(line.startswith(("editkit: ", "served.toml")) for line in shown.err.splitlines())
    assert not Path("out").exists()


def test_a_planner_of_its_own_takes_no_picture_to_begin_with(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    portrait()
    assert generate(PROMPT, "--plan", "--run", "lab:tiny-sd", "--start", "start.png") == 2
    assert "--start: found it with lab:tiny-sd, which is no editor" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "back_ends").glob("*.toml")), ids=lambda p: p.name)
def test_the_shipped_files_load(path: Path) -> None:
    assert load_toml_model(path, BackEnds)[0].description
