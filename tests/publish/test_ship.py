"""What a shipped model says of the trainings behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from editkit.errors import UserError
from editkit.models import METADATA
from editkit.publish import ship


def run_of(name: str, base: str, state: str = "done") -> str:
    """A run as training leaves it."""
    folder = Path("runs") / f"{name}-20260101-000000"
    (folder / "model").mkdir(parents=True)
    save_file({"weight": torch.full((2,), 1 / 3)}, folder / "model" / "model.safetensors")
    (folder / "model" / METADATA).write_text(json.dumps({"name": name, "base": base}))
    (folder / "recipe.toml").write_text(f'name = "{name}"\n')
    facts = {
        "name": name, "base": base, "state": state, "method": "unified", "seed": 4, "samples": 32_000, "seconds": 1800.0,
        "finished": "2026-01-01T00:00:00", "recipe_sha256": f"{len(name):064}", "trained_parameters": 2,
        "machine": {"name": "a machine", "threads": 1},
        "data": {"name": "scenes", "sha256": "0", "counts": {"train": 9}, "licences": {"CC0 1.0": {"credit": "nobody"}}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**facts, "started": "2026"}))
    return str(folder)


def test_stages_are_told_in_order_and_shipped_ones_go_on(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "LAB", workplace / "lab")
    one = ship.ship(run_of("words", ""), "small")
    assert not (one / ship.STAGES).exists()
    assert "in stages" not in (one / "README.md").read_text()
    assert load_file(one / "model.safetensors")["weight"].dtype == torch.float16

    both = ship.ship(run_of("scenes", run_of("verdicts", "")), "small")
    stages = json.loads((both / ship.STAGES).read_text())
    assert [(s["name"], s["recipe"]) for s in stages] == [(n, f'name = "{n}"\n') for n in ("verdicts", "scenes")]
    text = (both / "README.md").read_text()
    assert "* verdicts (recipe's sha256 `0000000000000000`): seed 4, 32,000 samples in 0.50 hours, finished 2026-01-01" in text
    assert "* scenes" not in text  # of which the card itself is
    assert json.loads((both / METADATA).read_text()) == {"name": "scenes", "base": ""}  # and no run of this machine

    more = ship.ship(run_of("further", "lab:small"), "small")  # which it replaces
    assert [s["name"] for s in json.loads((more / ship.STAGES).read_text())] == ["verdicts", "scenes", "further"]


def test_what_has_not_come_to_its_end_is_not_shipped(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "LAB", workplace / "lab")
    with pytest.raises(UserError, match='"stopped"; only a finished run'):
        ship.ship(run_of("words", "", "stopped"), "small")
    assert not (workplace / "lab").exists()
