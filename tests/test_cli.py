"""The command line is frozen: new knobs belong in the recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from editkit.cli import app, main

ROOT = Path(__file__).parent.parent

FROZEN = {
    "train": {"--set", "--resume", "--dry-run"},
    "build": {"--out", "--limit", "--engine"},
    "check": {"--leaks-from", "--fix", "--json"},
    "edit": {"--run", "--out", "-o", "--text-guidance", "--image-guidance", "--steps", "--seed"},
    "generate": {
        "--run",
        "--plan",
        "--start",
        "--out",
        "-o",
        "--text-guidance",
        "--image-guidance",
        "--steps",
        "--seed",
        "--json",
    },
    "eval": {"--bench", "--pairs", "--prompts", "--samples", "--judge", "--against", "--json"},
    "compare": {"--json"},
    "demo": {"--run", "--host", "--port"},
    "publish": {"--repo", "--private", "--dry-run"},
    "env": {"--bundle", "--json"},
}


def verbs() -> dict[str, set[str]]:
    found = {}
    for name in app:
        if name.startswith("-"):
            continue
        arguments = app[name].assemble_argument_collection()
        found[name] = {flag for a in arguments for flag in a.names if flag.startswith("-")}
    return found


def test_the_verbs_and_options_are_the_frozen_ones() -> None:
    assert verbs() == FROZEN


@pytest.mark.parametrize("verb", sorted(FROZEN))
def test_every_help_has_an_example(verb: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert f"Example: editkit {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], 'Did you mean "train"?'),
        (["train"], "requires an argument"),
        (["train", "nowhere.toml"], "nowhere.toml: no such file"),
        (["check", "nowhere"], "no such file or folder"),
        (["check", "--jsn", "x"], "Did you mean --json?"),
        (["build", "nowhere.toml"], "nowhere.toml: no such file"),
        (["edit", "nowhere.png", "make it red", "--run", "nowhere"], "nowhere.png: is missing"),
        (["edit", "nowhere.png", "  "], "the instruction is empty"),
        (["edit", "nowhere.png", "make it red", "--steps", "0"], "--steps: found 0"),
        (["edit", "nowhere.png", "make it red", "--steps", "many"], "Invalid value"),
        (["generate", "  "], "the prompt is empty"),
        (["generate", "a star", "--steps", "0"], "--steps: found 0"),
        (["generate", "a star", "--text-guidance", "nan"], "--text-guidance: found nan"),
        (["generate", "a star", "--image-guidance", "2"], "--image-guidance: found it without --plan"),
        (["generate", "a star", "--start", "a.png"], "--start: found it without --plan"),
        (["generate", "a star", "--plan", "--start", "nowhere.png"], "nowhere.png: is missing"),
        (["generate", "a star", "--plan", "--run", "nowhere.toml"], "nowhere.toml: no such file"),
        (["generate", "a star", "--seed", "-1"], "--seed: found -1"),
        (["generate", "a\nstar"], "found a line break"),
        (["generate", "a \udcff star"], "expected UTF-8"),
        (["generate", "a star"], "found no run"),
        (["generate", "a star", "--run", "nowhere"], "found no model at"),
        (["eval", "latest"], "found no run"),
        (["compare", "latest", "latest"], "found no run"),
        (["demo", "paint"], 'found "paint"'),
        (["publish", "latest", "--repo", "me/x"], "found no run"),
        (["env", "--bundle", "latest"], "found no run"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    arguments: list[str], words: str, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    shown = capsys.readouterr()
    assert left.value.code == 2
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("editkit: ")


def test_it_runs_as_a_program_and_says_its_version() -> None:
    import editkit

    result = subprocess.run(
        [sys.executable, "-m", "editkit", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == editkit.__version__


def test_env_is_readable_for_machines(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        main(["env", "--json"])
    assert left.value.code == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"]
    assert "xformers" in facts["missing"]
