"""What an issue report gets of a run, and above all what it does not get."""

from __future__ import annotations

import getpass
import json
import platform
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.bundle import PICTURE_BYTES, TAIL_LINES, Scrubber, bundle
from editkit.errors import UserError
from tests.tiny import encoded, picture

TOKEN = "hf_" + "aB3dE6gH9" * 3
KEY = "q7Rt-93.pLx_Zz81kkWm"  # of no known form
PASSWORD = "correct horse battery"


@pytest.fixture
def run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that failed, with secrets wherever a user could have put them."""
    monkeypatch.setenv("HOME", str(workplace / "people" / "anna"))
    monkeypatch.setenv("LOGNAME", "anna")
    monkeypatch.setattr(platform, "node", lambda: "annas-laptop")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SERVICE_LOGIN", KEY)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = workplace / "runs" / "small-1"
    here, home = str(workplace), str(Path.home())
    texts = {
        "recipe.toml": f'base = "{home}/models/sd"\n[data]\ntrain = "https://me:{KEY}@host.org/x?api_key={KEY}"\n'
        f'hub_token = "{TOKEN}"\npassword = "{PASSWORD}"\n[model.tokenizer]\nvocab_size = 600\n',
        "run.json": json.dumps({"state": "failed", "machine": platform.node(), "data": f"{here}/data", "login": KEY}),
        "metrics.jsonl": "".join(json.dumps({"kind": "train", "step": s, "loss": 0.5}) + "\n" for s in range(1000)),
        "pace.jsonl": json.dumps({"step": 1, "who": getpass.getuser(), "why": f"Authorization: Bearer {KEY}"}) + "\n",
        "checkpoints/step-000001/manifest.json": '{"step": 1}',
        "checkpoints/step-000002/manifest.json": json.dumps({"step": 2, "files": {"weights": "0" * 64}}),
        "checkpoints/step-000002/weights.distcp": "the weights themselves",
        "failures/step-000003/batch.json": json.dumps({"why": "nan", "examples": [{"text": f"make it red {TOKEN}"}]}),
        f"tensorboard/events.{platform.node()}.1": "figures",
        ".env": f"OPENAI_API_KEY={KEY}",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "failures/step-000003/000-source.png").write_bytes(encoded(picture("red")))
    (folder / "failures/step-000003/001-source.png").write_bytes(b"x" * (PICTURE_BYTES + 1))
    return folder


def packed(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}


def test_it_packs_what_an_issue_report_needs(run: Path) -> None:
    path = bundle("latest")
    assert path == run.parent / "small-1-bundle.zip"
    inside = packed(path)
    assert set(inside) == {
        "recipe.toml", "run.json", "metrics.jsonl", "pace.jsonl", "checkpoints/step-000002/manifest.json", "files.txt",
        "failures/step-000003/batch.json", "failures/step-000003/000-source.png", "environment.json", "packages.txt",
    }  # fmt: skip
    steps = [json.loads(line)["step"] for line in inside["metrics.jsonl"].splitlines()]
    assert steps == list(range(1000 - TAIL_LINES, 1000))
    assert json.loads(inside["checkpoints/step-000002/manifest.json"])["files"]["weights"] == "0" * 64
    assert b"vocab_size = 600" in inside["recipe.toml"]
    facts = json.loads(inside["environment.json"])
    assert facts["versions"]["torch"]
    assert facts["variables"]["OMP_NUM_THREADS"] == "1"
    assert b"torch==" in inside["packages.txt"]
    assert b"22  checkpoints/step-000002/weights.distcp" in inside["files.txt"]
    assert [*run.parent.iterdir()] == [run, path] or [*run.parent.iterdir()] == [path, run], "nothing else is left behind"


def test_no_secret_and_no_name_of_user_machine_or_home_is_packed(run: Path) -> None:
    everything = b"\n".join(content for name, content in packed(bundle(str(run))).items() if not name.endswith(".png"))
    for secret in (TOKEN, KEY, PASSWORD, "anna", str(Path.home()), str(Path.cwd())):
        assert secret.encode() not in everything, secret
    assert b"<home>/models/sd" in everything
    assert b"<here>/data" in everything
    assert b"make it red <removed>" in everything
    assert b'"who": "<user>"' in everything
    assert b"@host.org" in everything


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8))
def test_no_value_of_the_environment_survives(value: str) -> None:
    clean = Scrubber({"SERVICE_TOKEN": value})
    assert value not in clean(json.dumps({"text": f"before {value} after"})).replace("<removed>", "\n")
    assert value not in clean(f"before {value} after").replace("<removed>", "\n")


def test_a_word_in_the_environment_and_the_short_list_change_no_text() -> None:
    clean = Scrubber({"EDITOR": "tensorboard", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5", "SHORT": "ab12"})
    text = "tensorboard 0,1,2,3,4,5 ab12 tokenizer = 600 max_tokens = 77 sha256 " + "0a" * 32
    assert clean(text) == text


def test_a_run_that_is_not_there_is_said(workplace: Path) -> None:
    with pytest.raises(UserError, match="found no run"):
        bundle("latest")
