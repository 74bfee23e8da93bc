"""Recipes that learn from other people's data sets by name: trained to the end, with what is not used said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from editkit.cli import main
from editkit.data.plan import REFERENCES_UNUSED
from editkit.train.run import train
from tests.data.test_public_sets import placed
from tests.data.test_remote import far, hub  # noqa: F401  (a fixture)
from tests.train.test_mix import RECIPE


def recipe(base: Path, first: str, second: str, test: str) -> str:
    text = RECIPE.format(base=base, first=first, second=second).replace("flip = 0.5", f'flip = 0.5\ntest = "{test}"')
    Path("public.toml").write_text(text)
    return "public.toml"


def test_a_mixture_of_public_sets_trains_to_the_end(workplace: Path, tiny_sd: Path, capsys: pytest.CaptureFixture) -> None:
    both_ways, _ = placed("hq_edit", workplace)
    references, _ = placed("x2i2", workplace)
    test, _ = placed("magicbrush_test", workplace)
    run = train(recipe(tiny_sd, both_ways, references, test), [])
    said = capsys.readouterr().out
    assert said.count(REFERENCES_UNUSED) == 1
    facts = json.loads((run / "run.json").read_text())
    assert facts["data"]["counts"] == {"train": 3}
    assert set(facts["data"]["licences"]) == {"CC-BY-NC-4.0", "not stated in what was read"}


def test_a_hub_set_trains_where_it_lies(workplace: Path, tiny_sd: Path, hub: Path) -> None:  # noqa: F811
    where = far(workplace)
    test, _ = placed("magicbrush_test", workplace)
    second, _ = placed("cartoonization", workplace)
    run = train(recipe(tiny_sd, where, second, test), [])
    assert json.loads((run / "run.json").read_text())["data"]["counts"] == {"train": 21}


def test_a_benchmark_without_targets_is_no_test_set(workplace: Path, tiny_sd: Path, capsys: pytest.CaptureFixture) -> None:
    first, _ = placed("hq_edit", workplace)
    second, _ = placed("x2i2", workplace)
    test, _ = placed("gedit_bench", workplace)
    with pytest.raises(SystemExit) as left:
        main(["check", recipe(tiny_sd, first, second, test)])
    assert left.value.code == 2
    assert "found edit_requests; expected edit_pairs" in capsys.readouterr().err
