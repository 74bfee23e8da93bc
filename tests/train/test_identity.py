"""What a resume must share: what counts, what does not, and how a difference reads."""

from __future__ import annotations

from typing import Any

import pytest

from editkit.errors import UserError
from editkit.recipe.schema import Adapter, Buckets, Data, Evaluate, Method, Model, Optim, Recipe, Train
from editkit.train import identity as module
from editkit.train.identity import check_identity, differences, identity_of, released_options

FACTS = {"data": "a" * 64, "base": "b" * 64, "torch": "2.13.0"}


def recipe(**changes: Any) -> Recipe:
    """A recipe with "table__key" changed."""
    tables: dict[str, dict[str, Any]] = {
        "optim": {"lr": 1e-3},
        "train": {"steps": 10, "batch_size": 4},
        "data": {"train": "pairs.toml", "resolution": 32},
        "evaluate": {},
        "method": {"name": "instruct_edit", "conditioning_dropout": 0.05},
    }
    for key, value in changes.items():
        table, _, name = key.partition("__")
        tables[table][name] = value
    return Recipe(
        name="r",
        method=Method(**tables["method"]),
        model=Model(family="stable_diffusion", base="lab:tiny-sd"),
        data=Data(**tables["data"]),
        optim=Optim(**tables["optim"]),
        train=Train(**tables["train"]),
        evaluate=Evaluate(**tables["evaluate"]),
    )


def between(before: Recipe, after: Recipe) -> list[str]:
    return differences(identity_of(before, FACTS), identity_of(after, FACTS))


@pytest.mark.parametrize(("change", "line"), [
    ({"optim__lr": 0.5}, "optim.lr: 0.001 in the run, 0.5 now"),
    ({"optim__betas": (0.8, 0.9)}, "optim.betas: [0.9, 0.999] in the run, [0.8, 0.9] now"),
    ({"train__batch_size": 8}, "examples a step: 4 in the run, 8 now"),
    ({"train__ema_decay": 0.9}, "train.ema_decay: 0.0 in the run, 0.9 now"),
    ({"data__train": "more.toml"}, "data.train: pairs.toml in the run, more.toml now"),
    ({"method__conditioning_dropout": 0.1}, "method.conditioning_dropout: 0.05 in the run, 0.1 now"),
    ({"method__snr_gamma": 5.0}, "method.snr_gamma: nothing in the run, 5.0 now"),
])  # fmt: skip
def test_what_changes_numbers_counts(change: dict[str, Any], line: str) -> None:
    assert between(recipe(), recipe(**change)) == [line]


@pytest.mark.parametrize("buckets", [None, Buckets(sides=[64])])
def test_how_a_step_is_divided_among_processes_does_not_count_but_its_size_does(buckets: Buckets | None) -> None:
    two = identity_of(recipe(train__accumulate=2, data__buckets=buckets), FACTS, 2)
    assert differences(two, identity_of(recipe(train__accumulate=1, data__buckets=buckets), FACTS, 4)) == []
    (line,) = differences(two, identity_of(recipe(train__accumulate=2, data__buckets=buckets), FACTS, 4))
    assert " a step: " in line


@pytest.mark.parametrize("change", [
    {"train__log_every": 3}, {"train__save_every": 3}, {"train__preview_every": 3}, {"train__keep_last": 9},
    {"train__keep_best": 1, "train__best_metric": "-loss"}, {"train__threads": 1}, {"train__resume_despite": ["data"]},
    {"data__workers": 4}, {"data__test": "other.toml"}, {"evaluate__pairs": 9, "evaluate__text_guidance": 3.0},
    {"train__steps": 99},
])  # fmt: skip
def test_what_is_only_watched_does_not(change: dict[str, Any]) -> None:
    assert between(recipe(), recipe(**change)) == []


def test_the_number_of_steps_counts_where_the_schedule_depends_on_it() -> None:
    cosine = {"optim__schedule": "cosine"}
    assert between(recipe(**cosine), recipe(**cosine, train__steps=99)) == ["train.steps: 10 in the run, 99 now"]


def test_facts_and_the_codes_numbers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, before = identity_of(recipe(), FACTS), module.NUMERICS
    monkeypatch.setattr(module, "NUMERICS", 99)
    now = identity_of(recipe(), FACTS | {"data": "c" * 64, "torch": "2.14.0"})
    assert differences(saved, now) == [
        "data: aaaaaaaaaaaa in the run, cccccccccccc now",
        f"numerics: {before} in the run, 99 now",
        "torch: 2.13.0 in the run, 2.14.0 now",
    ]


def test_a_key_that_is_newer_than_the_run_counts_when_it_is_not_at_its_default() -> None:
    saved = {k: v for k, v in identity_of(recipe(), FACTS).items() if k not in ("optim.warmup", "data.flip")}
    assert differences(saved, identity_of(recipe(optim__warmup=5), FACTS)) == ["optim.warmup: 0 in the run, 5 now"]


def test_an_adapter_that_was_not_there_counts() -> None:
    lines = between(recipe(), recipe().model_copy(update={"adapter": Adapter(rank=4)}))
    assert "adapter.rank: nothing in the run, 4 now" in lines


@pytest.mark.parametrize(("despite", "left"), [
    ([], ["data", "data.resolution", "optim.lr", "optim.warmup", "torch"]),
    (["optim.lr", "torch"], ["data", "data.resolution", "optim.warmup"]),
    (["optim", "data"], ["torch"]),
    (["opt", "data.res", "tor"], ["data", "data.resolution", "optim.lr", "optim.warmup", "torch"]),
])  # fmt: skip
def test_it_is_overridden_by_name_or_table(despite: list[str], left: list[str]) -> None:
    saved = identity_of(recipe(), FACTS)
    now = identity_of(recipe(optim__lr=0.1, optim__warmup=2, data__resolution=64), FACTS | {"data": "", "torch": "3"})
    assert [line.partition(":")[0] for line in differences(saved, now, despite)] == left


def test_the_message_lists_twenty_and_says_how_to_go_on() -> None:
    saved = {f"method.key{i:02}": "1" for i in range(25)}
    with pytest.raises(UserError) as caught:
        check_identity("runs/x", saved, {}, ["torch"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "runs/x: cannot be resumed, it was made from something else:"
    assert lines[1] == "method.key00: 1 in the run, nothing now"
    assert lines[21] == "and 5 more"
    assert lines[22].startswith('start a new run, or go on all the same with train.resume_despite = ["torch", "method.key00", ')
    assert len(lines) == 23


def test_an_overridden_rate_is_taken_from_the_recipe() -> None:
    assert released_options(["data", "torch"]) == frozenset()
    assert released_options(["optim.weight_decay"]) == {"weight_decay"}
    assert released_options(["optim.lr"]) == {"lr", "base_lr"} == released_options(["adapter.lr"])
    assert {"lr", "base_lr", "betas", "eps"} <= released_options(["optim"])


def test_how_a_step_is_divided_counts_only_with_buckets() -> None:
    whole, parts = recipe(), recipe(train__batch_size=2, train__accumulate=2)
    assert between(whole, parts) == []
    assert identity_of(whole, FACTS) == identity_of(recipe(train__batch_size=1), FACTS, processes=4)
    buckets = {"data__buckets": Buckets(sides=[64])}
    assert between(recipe(**buckets), recipe(**buckets, train__batch_size=2, train__accumulate=2)) == [
        "batches a step: 1 in the run, 2 now",
        "train.batch_size: 4 in the run, 2 now",
    ]


def test_best_needs_a_metric() -> None:
    with pytest.raises(ValueError, match="keep_best needs best_metric"):
        Train(steps=1, batch_size=1, keep_best=2)
