"""What `train` says before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from editkit.recipe.load import load_recipe
from editkit.recipe.schema import Recipe
from editkit.train import expected
from editkit.train.expected import expected_line
from editkit.train.machines import NAMED, Machine
from editkit.train.setup import Setup, check_recipe, prepare_run
from tests.train.kill import write_recipe


@pytest.fixture
def setup(workplace: Path, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("EDITKIT_CACHE", str(workplace / "cache"))
    return made(workplace, tiny_sd)


def made(workplace: Path, base: Path, *changes: str) -> Setup:
    recipe, source = load_recipe(write_recipe(workplace, base), list(changes))
    return prepare_run(recipe, source)


def test_a_processor_without_bf16_trains_in_fp32_and_other_machines_are_estimated_as_asked(
    workplace: Path, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editkit.models.precision.has_bf16", lambda _: False)
    path = write_recipe(workplace, tiny_sd)
    Path(path).write_text(Path(path).read_text().replace("[train]", '[train]\nprecision = "bf16"'))
    setup = prepare_run(*load_recipe(path))
    assert setup.recipe.train.precision == "fp32"
    assert "\n  instead of bf16: this processor " in "\n".join(setup.numerics)
    estimated: list[tuple[str, list[str]]] = []

    def noted(recipe: Recipe, machines: list[Machine], **_: Any) -> list[Machine]:
        estimated.append((recipe.train.precision, [m.name for m in machines]))
        return machines

    monkeypatch.setattr("editkit.train.setup.estimates", noted)
    facts = check_recipe(path)
    assert estimated == [("fp32", [facts["estimate"].name]), ("bf16", [m.name for m in NAMED.values()])]
    assert facts["elsewhere"] == list(NAMED.values())
    assert facts["precision"] == "bf16"


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked, original = [], expected.estimate

    def count(*args: Any, **named: Any) -> Any:
        asked.append(1)
        return original(*args, **named)

    monkeypatch.setattr(expected, "estimate", count)
    return asked


def test_an_estimate_is_made_once_for_a_recipe_on_a_machine(
    setup: Setup, workplace: Path, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counting(monkeypatch)
    said = expected_line(setup, 0)
    assert said.startswith("expected: ")
    assert " a step, " in said
    assert expected_line(setup, 0).split("until")[0] == said.split("until")[0]
    assert len(asked) == 1
    expected_line(made(workplace, tiny_sd, "train.batch_size=4"), 0)
    assert len(asked) == 2, "another recipe"
    (stored, *_) = (workplace / "cache" / "estimates").iterdir()
    stored.write_text("{")
    expected_line(setup, 0), expected_line(made(workplace, tiny_sd, "train.batch_size=4"), 0)
    assert len(asked) == 3, "what is damaged is made again"


def test_steps_that_are_done_are_no_longer_ahead(setup: Setup) -> None:
    assert ", about 0 ms of steps, " in expected_line(setup, setup.recipe.train.steps)


def test_a_network_that_cannot_be_estimated_is_said_and_stops_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no fake kernel for aten::odd\nand more")

    monkeypatch.setattr(expected, "estimate", fail)
    assert expected_line(setup, 0) == "expected: no estimate for this recipe (RuntimeError: no fake kernel for aten::odd)"
