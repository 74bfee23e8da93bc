"""The estimator against what is measured and what is counted for real."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.data.draws import Draws
from editkit.data.read import open_dataset
from editkit.models.precision import computing
from editkit.models.stable_diffusion.load import Options, load
from editkit.recipe.load import load_recipe
from editkit.train.estimate import GIB, estimate, estimates, optimizer_bytes
from editkit.train.heap import Heap
from editkit.train.machines import Machine, machine_named
from editkit.train.optim import make_optimizer
from editkit.train.rehearsal import rehearse
from editkit.train.setup import prepare_run
from tests.bench.memory import KEPT, ROOT, SPEC, estimate_row

ROWS = json.loads(KEPT.read_text())["rows"]
SMALL = Machine("a small device", "cuda", 2**20, {"float32": 1e12}, 1e11, 1e-6, "made up")


@pytest.fixture
def recipe_of(workplace: Path, tiny_sd: Path):
    (workplace / "pairs.toml").write_text(SPEC.format(kind="edit_pairs", train=8, test=4))

    def make(*overrides: str):
        wanted = [f"model.base={tiny_sd}", "data.train=pairs.toml", "train.batch_size=4", "evaluate.pairs=0", *overrides]
        return load_recipe(str(ROOT / "recipes" / "instructpix2pix.toml"), wanted)[0]

    return make


def part(found, name: str) -> int:
    return sum(c.bytes for c in found.components if c.name.startswith(name))


@pytest.mark.parametrize("name", list(ROWS))
def test_the_peak_is_within_a_tenth_of_what_was_measured(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.getbasetemp() / "estimated"  # the data sets are built once
    folder.mkdir(exist_ok=True)
    for kind in ("edit_pairs", "captioned_images"):
        (folder / f"{kind}.toml").write_text(SPEC.format(kind=kind, train=16, test=64))
    monkeypatch.chdir(folder)
    found = estimate_row(ROWS[name], folder).peak / 2**20
    assert found == pytest.approx(ROWS[name]["peak_MiB"], rel=0.10)


@pytest.mark.parametrize("adapter", [[], ["adapter.name=lora"]], ids=["full", "lora"])
def test_parameters_gradients_and_the_state_are_those_of_the_real_run(recipe_of, adapter: list[str]) -> None:
    recipe = recipe_of("train.ema_decay=0.9", *adapter)
    before = torch.get_rng_state()
    found = estimate(recipe, SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    method = prepare_run(recipe, None).method
    trained = {n: p for n, p in method.trainable.named_parameters() if p.requires_grad}
    numbers = sum(p.numel() for p in trained.values())
    assert part(found, "weights, trained") == 4 * numbers
    assert part(found, "EMA") == 4 * numbers
    assert part(found, "optimiser state") == 8 * numbers


@pytest.mark.parametrize("name", ["adamw", "prodigy", "schedule_free", "muon"])
def test_state_bytes_are_those_that_the_optimiser_keeps(name: str) -> None:
    if name in ("prodigy", "schedule_free"):
        pytest.importorskip({"prodigy": "prodigyopt", "schedule_free": "schedulefree"}[name])
    recipe, _ = load_recipe(
        str(ROOT / "recipes" / "instructpix2pix.toml"),
        [f"optim.name={name}", "optim.lr=1.0", "optim.schedule=constant", "train.ema_decay=0.0"],
    )
    net = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.ModuleDict({"lin": torch.nn.Linear(70, 80)})])})
    named = dict(net.named_parameters())
    optimizer = make_optimizer([{"params": list(named.values())}], recipe.optim, named)
    for p in named.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    kept = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor) and t.numel() > 1)
    assert optimizer_bytes(name, named) == kept


def test_activations_fall_with_the_batch_and_with_checkpointing(recipe_of) -> None:
    full, half, checkpointed = (
        part(estimate(recipe_of(*o), SMALL), "activations")
        for o in ([], ["train.batch_size=2"], ["train.gradient_checkpointing=true"])
    )
    assert half < 0.7 * full
    assert checkpointed < 0.9 * full


def test_frozen_weights_are_not_counted_a_second_time_through_their_views(recipe_of) -> None:
    recipe = recipe_of("adapter.name=lora", "train.batch_size=3", "train.precision=fp32")
    found = rehearse(recipe, None, open_dataset(recipe.data.train, "train"), fused=False)
    # Three divides the sizes of what a batch of three makes, and not that of the largest frozen matrix.
    largest = max(p.nbytes for p in load(recipe.model.base, Options()).unet.parameters() if p.ndim == 2)
    assert largest % 3
    assert largest not in [p.nbytes for p in found.trained.values()]
    assert largest not in [nbytes for _, nbytes in found.events["step"]]


def test_saved_bytes_are_those_that_a_real_pass_keeps(recipe_of) -> None:
    recipe = recipe_of("train.precision=fp32")
    setup = prepare_run(recipe, None)
    batch = setup.method.encode(torch.zeros(4, 2, 3, 64, 64, dtype=torch.uint8)) | {"text": ["a red hat"] * 4}
    batch = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    kept: dict[int, torch.Tensor] = {}
    setup.method.trainable.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.untyped_storage()._cdata, t), lambda t: t)
    with hooks, computing(setup.device, "fp32"):
        setup.method.loss(batch, Draws(0, range(4)))
    weights = {p.untyped_storage()._cdata for p in setup.method.trainable.parameters()}
    real = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    found = estimate(recipe, Machine("c", "cpu", 2**40, {"float32": 1e12}, 1e11, 0.0, "made up"))
    assert part(found, "activations") == pytest.approx(real, rel=0.1)


def test_what_does_not_fit_says_what_to_change_best_first(recipe_of) -> None:
    found = estimates(recipe_of("train.ema_decay=0.9"), [SMALL])[0]
    assert not found.fits
    assert "WARNING: this will not fit" in found.line()
    assert any("batch_size = 2" in c.setting for c in found.changes)
    assert any("ema_decay = 0.0" in c.setting for c in found.changes)
    assert [c.saves for c in found.changes] == sorted((c.saves for c in found.changes), reverse=True)


def test_sharding_divides_what_is_trained(recipe_of) -> None:
    alone, sharded = (
        estimates(recipe_of(), [SMALL])[0],
        estimates(recipe_of("parallel.processes=4", "parallel.layout=fsdp"), [SMALL])[0],
    )
    assert part(sharded, "optimiser state") == part(alone, "optimiser state") // 4
    assert part(sharded, "gathered blocks") > 0
    assert part(estimates(recipe_of("parallel.processes=2"), [SMALL])[0], "gradient buckets") == part(alone, "weights, trained")


def test_a_named_machine_says_that_it_was_not_measured() -> None:
    machine = machine_named("H100 80 GB")
    assert machine.memory == 80 * GIB
    assert "not measured here" in machine.source


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40 * 2**20)), max_size=60))
def test_a_heap_holds_at_least_what_is_alive_and_its_blocks_do_not_overlap(calls: list[tuple[bool, int]]) -> None:
    heap, alive = Heap(), {}
    for number, (release, size) in enumerate(calls):
        if release and alive:
            name = next(iter(alive))
            heap.release(name)
            del alive[name]
        else:
            heap.allocate(number, size)
            alive[number] = size
        spans = sorted(heap._blocks[n] for n in alive if heap._blocks[n][0] >= 0)
        assert all(a[0] + a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert sum(alive.values()) <= heap.resident <= heap.peak


def test_one_real_run_in_a_child_takes_about_what_is_said(recipe_of, tiny_sd: Path) -> None:
    code = "import json, sys; from tests.bench.memory import run_row; print(json.dumps(run_row(*json.loads(sys.argv[1]))))"
    recipe_of()
    wanted = [f"model.base={tiny_sd}", "data.train=pairs.toml", "train.batch_size=4", "data.workers=0"]
    argument = json.dumps([str(ROOT / "recipes" / "instructpix2pix.toml"), wanted, 2])
    done = subprocess.run(
        [sys.executable, "-c", code, argument], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])["peak_MiB"]
    said = (
        estimate(recipe_of("data.workers=0"), Machine("c", "cpu", 2**40, {"float32": 1e12}, 1e11, 0.0, "made up")).peak / 2**20
    )
    assert said == pytest.approx(measured, rel=0.3)
