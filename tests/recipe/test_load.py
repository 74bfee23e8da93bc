"""Recipes are strict: every mistake is named with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.errors import UserError
from editkit.recipe.load import dump, key_lines, load_recipe, options, recipe_hash
from editkit.recipe.schema import Adapter, Data, Evaluate, Method, Model, Optim, Recipe, Section, Train

GOOD = """\
format = 1
name = "test"

[method]
name = "instruct_edit"
conditioning_dropout = 0.1

[model]
family = "stable_diffusion"

[data]
train = "data_specs/avatar_edits.toml"
resolution = 64

[optim]
lr = 1e-3
betas = [
  0.9,
  0.99,
]

[train]
steps = 10
batch_size = 2
"""


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_a_good_recipe_loads(tmp_path: Path) -> None:
    recipe, source = load_recipe(write(tmp_path, GOOD))
    assert recipe.optim.betas == (0.9, 0.99)
    assert recipe.method.options == {"conditioning_dropout": 0.1}
    assert source.place(("optim", "lr")).endswith("recipe.toml:16")


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("steps = 10", "stepps = 10", 23, ['unknown key "train.stepps"', 'did you mean "steps"?']),
        ("steps = 10", 'steps = "10"', 23, ['found "10"', "integer"]),
        ("resolution = 64", "resolution = true", 13, ["found true", "integer"]),
        ("resolution = 64", "resolution = 64\nflip = 1.5", 14, ["found 1.5", "less than or equal to 1"]),
        ("resolution = 64", 'resolution = 64\ncrop = "middle"', 14, ['found "middle"', "'center' or 'random'"]),
        ("lr = 1e-3", "lr = -1", 16, ["found -1", "greater than 0"]),
        ("batch_size = 2", "batch_size = 2\nlr = 1e-4", 25, ['did you mean "optim.lr"?']),
        ("format = 1", "format = 99", 1, ["this version knows up to 1", "update editkit"]),
        ("steps = 10", "steps = = 10", 23, ["not valid TOML"]),
    ],
)
def test_a_mistake_is_named_with_file_line_and_what_to_do(
    tmp_path: Path, before: str, after: str, line: int, words: list[str]
) -> None:
    message = error_of(write(tmp_path, GOOD.replace(before, after)))
    assert f"recipe.toml:{line}: " in message
    for word in words:
        assert word in message


def test_every_mistake_is_named_not_only_the_first(tmp_path: Path) -> None:
    text = GOOD.replace("steps = 10", "stepps = 10").replace("lr = 1e-3", 'lr = "fast"')
    lines = error_of(write(tmp_path, text)).splitlines()
    assert len(lines) == 3  # a wrong type, an unknown key, and the missing steps


def test_a_missing_key_and_a_missing_file_are_named(tmp_path: Path) -> None:
    assert '"train.steps" is missing' in error_of(write(tmp_path, GOOD.replace("steps = 10\n", "")))
    assert 'did you mean "' in error_of(tmp_path / "recpie.toml")


def test_text_is_no_number_and_no_truth(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, GOOD.replace("resolution = 64", 'resolution = 64\ncache_latents = "False"')))
    assert 'found "False"' in message
    assert "boolean" in message


def test_an_integer_stands_for_a_float(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, GOOD.replace("lr = 1e-3", "lr = 1")))[0].optim.lr == 1.0


def test_rules_across_fields_are_checked(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, GOOD.replace("resolution = 64", 'resolution = 64\ncrop = "random"')))
    assert "recipe.toml:11: " in message
    assert "cannot be cached" in message


def test_extends_one_level_and_names_the_parent(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "parent.toml")
    child = write(tmp_path, 'extends = "parent.toml"\nname = "child"\n[train]\nsteps = 20\n', "child.toml")
    recipe, _ = load_recipe(child)
    assert (recipe.name, recipe.train.steps, recipe.train.batch_size) == ("child", 20, 2)
    write(tmp_path, GOOD.replace("steps = 10", "stepps = 10"), "parent.toml")
    assert "parent.toml:23: " in error_of(child)
    grandchild = write(tmp_path, 'extends = "child.toml"\n', "grandchild.toml")
    assert "child.toml:1: " in error_of(grandchild)
    assert "one level only" in error_of(grandchild)


def test_overrides_are_typed_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe, _ = load_recipe(path, ["train.steps=5", "name=bare-word", "evaluate.text_grid=[1.5, 3.0]"])
    assert (recipe.train.steps, recipe.name, recipe.evaluate.text_grid) == (5, "bare-word", [1.5, 3.0])
    assert error_of(path, "train.stps=5").startswith("--set train.stps=5: ")
    assert "expected key=value" in error_of(path, "train.steps")


def test_a_component_validates_its_own_keys(tmp_path: Path) -> None:
    class Options(Section):
        conditioning_dropout: float = 0.05

    recipe, source = load_recipe(write(tmp_path, GOOD))
    assert options(recipe.method, Options, "method", source).conditioning_dropout == 0.1
    recipe, source = load_recipe(write(tmp_path, GOOD.replace("conditioning_dropout", "conditionning_dropout")))
    with pytest.raises(UserError, match=r'recipe.toml:6: .*did you mean "conditioning_dropout"'):
        options(recipe.method, Options, "method", source)


def test_line_numbers_pass_over_look_alikes() -> None:
    text = 'a = """\n[fake]\nx = 1\n"""\n[real]\nlist = [\n  1, # b = 2\n]\nb.c = 3\n'
    assert key_lines(text) == {("a",): 1, ("real",): 5, ("real", "list"): 6, ("real", "b"): 9, ("real", "b", "c"): 9}


_numbers = st.floats(1e-6, 10, allow_nan=False)
_recipes = st.builds(
    Recipe,
    name=st.text(min_size=1),
    description=st.text(),
    seed=st.integers(0, 2**31),
    method=st.builds(Method, name=st.just("instruct_edit"), conditioning_dropout=st.floats(0, 1)),
    model=st.builds(Model, family=st.just("stable_diffusion"), base=st.text()),
    data=st.builds(Data, train=st.text(), resolution=st.integers(1, 4096), flip=st.floats(0, 1)),
    optim=st.builds(Optim, lr=_numbers, betas=st.tuples(st.floats(0, 1), st.floats(0, 1))),
    train=st.builds(Train, steps=st.integers(1, 10**9), batch_size=st.integers(1, 4096), ema_decay=st.floats(0, 1)),
    adapter=st.none() | st.builds(Adapter, rank=st.integers(1, 512), targets=st.lists(st.text())),
    evaluate=st.builds(Evaluate, text_grid=st.lists(st.floats(1, 20))),
)


@given(_recipes)
def test_the_resolved_recipe_loads_back_equal(tmp_path_factory: Any, recipe: Recipe) -> None:
    path = write(tmp_path_factory.mktemp("dump"), dump(recipe))
    again, _ = load_recipe(path)
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)
