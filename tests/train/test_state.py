"""The tensors of a training: taken and put back bit for bit, whatever the optimiser keeps; in one process and in several."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from editkit.errors import UserError
from editkit.train.checkpoint import Keep, load_checkpoint, save_checkpoint
from editkit.train.state import capture, places, restore, trained
from tests.train.processes import run_processes

IDENTITY = {"data": "a"}
Training = tuple[nn.Module, torch.optim.Optimizer, dict[str, dict[str, torch.Tensor]]]


class Net(nn.Module):
    """Frozen and trained, a convolution in channels-last, running statistics, an odd size, one weight of lower precision."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.first = nn.Linear(6, 7)
        self.norm = nn.BatchNorm1d(7)
        self.conv = nn.Conv2d(7, 4, (1, 3), padding=(0, 1)).to(memory_format=torch.channels_last)
        self.last = nn.Linear(7, 1)

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        h_BC = self.norm(self.first(self.frozen(x_BC)))
        return self.last(h_BC) + self.conv(h_BC[:, :, None, None]).mean((1, 2, 3))[:, None]


class Unusual(torch.optim.Optimizer):
    """Counters in the groups, numbers and a quantised moment in the state, as Prodigy, schedule-free and 8-bit AdamW have."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1, "k": 0, "d": 1e-6, "train_mode": True, "betas": (0.9, 0.99), "note": None})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["k"] += 1
            group["d"] *= 1.5
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "z": p.clone().double(), "p0": torch.tensor(0.0), "scale": torch.ones(2)}
                    state["state1"] = torch.zeros(p.numel() // 2 + 1, dtype=torch.uint8)
                state["step"] += 1
                state["z"] -= group["d"] * p.grad
                state["state1"] += state["step"]
                p.copy_(0.9 * p + 0.1 * state["z"] + 1e-3 * state["state1"].float().mean())


def adamw(net: nn.Module, **options: Any) -> torch.optim.Optimizer:
    named = trained(net)
    groups = [
        {"params": [p for n, p in named.items() if "bias" in n], "lr": 1e-3, "weight_decay": 0.0, "base_lr": 1e-3},
        {"params": [p for n, p in named.items() if "bias" not in n], "lr": 1e-2, "base_lr": 1e-2},
    ]
    return torch.optim.AdamW(groups, **{"betas": (0.8, 0.9), **options})


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "fused": lambda net: adamw(net, fused=True),
    "amsgrad": lambda net: adamw(net, amsgrad=True),
    "sgd": lambda net: torch.optim.SGD(trained(net).values(), 0.1),
    "adafactor": lambda net: torch.optim.Adafactor(trained(net).values()),
    "unusual": lambda net: Unusual(trained(net).values()),
}


def made(seed: int, optimizer: str) -> Training:
    torch.manual_seed(seed)
    net = Net()
    averages = {name: {n: p.detach().clone() for n, p in trained(net).items()} for name in ("0.9", "0.999")}
    return net, OPTIMIZERS[optimizer](net), averages


def take_steps(net: nn.Module, optimizer: torch.optim.Optimizer, averages: Any, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        net(torch.randn(8, 6, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for decay, average in averages.items():
                for name, p in trained(net).items():
                    average[name].lerp_(p, 1 - float(decay))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        a, b = (t.full_tensor() if isinstance(t, DTensor) else t for t in (a, b))
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 3])
def test_a_resumed_training_equals_one_that_was_never_stopped(tmp_path: Path, kind: str, before: int) -> None:
    whole = made(0, kind)
    take_steps(*whole, range(before))
    save_checkpoint(tmp_path, before, {"step": before, **capture(*whole)}, IDENTITY, Keep())
    take_steps(*whole, range(before, 6))

    again = made(1, kind)
    frozen = copy.deepcopy(again[0].frozen.state_dict())
    loaded = load_checkpoint(tmp_path, IDENTITY, place=places(*again))
    restore(loaded, *again)
    assert same(frozen, dict(again[0].frozen.state_dict())), "only what is trained is in a checkpoint"
    again[0].frozen.load_state_dict(whole[0].frozen.state_dict())
    take_steps(*again, range(before, 6))
    assert same(capture(*again), capture(*whole))
    assert same(dict(again[0].state_dict()), dict(whole[0].state_dict()))


def test_a_copy_kept_in_memory_can_be_put_back() -> None:
    training = made(0, "unusual")
    take_steps(*training, range(2))
    kept = copy.deepcopy(capture(*training))
    take_steps(*training, range(2, 4))
    assert not same(capture(*training), kept)
    restore(copy.deepcopy(kept), *training)
    assert same(capture(*training), kept)


def test_only_what_is_trained_is_captured_by_name() -> None:
    net, optimizer, averages = made(0, "fused")
    take_steps(net, optimizer, averages, range(1))
    state = capture(net, optimizer, averages)
    assert "frozen.weight" not in state["weights"]
    assert set(state["buffers"]) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert set(state["optimizer"]["state"]["conv.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["optimizer"]["groups"][0]["params"] == ["first.bias", "norm.bias", "conv.bias", "last.bias"]
    assert state["weights"]["first.weight"].data_ptr() == net.first.weight.data_ptr(), "nothing is copied"


def test_the_memory_format_of_a_moment_is_its_weights(tmp_path: Path) -> None:
    whole = made(0, "fused")
    take_steps(*whole, range(1))
    save_checkpoint(tmp_path, 1, capture(*whole), IDENTITY, Keep())
    loaded = load_checkpoint(tmp_path, IDENTITY, place=places(*made(1, "fused")))
    moment = whole[1].state[whole[0].conv.weight]["exp_avg"]
    assert not moment.is_contiguous()
    assert loaded["optimizer"]["state"]["conv.weight"]["exp_avg"].stride() == moment.stride()


def test_wrapped_modules_share_their_names() -> None:
    net, optimizer, averages = made(0, "sgd")
    compiled = torch.compile(net)
    assert same(capture(compiled, optimizer, averages), capture(net, optimizer, averages))


def test_released_options_are_those_of_today(tmp_path: Path) -> None:
    before = made(0, "fused")
    take_steps(*before, range(2))
    saved = capture(*before)
    net, optimizer, averages = made(0, "adamw")
    for group in optimizer.param_groups:
        group |= {"lr": 5.0, "base_lr": 5.0, "weight_decay": 7.0}
    restore(saved, net, optimizer, averages, released=["lr", "base_lr"])
    assert [(g["lr"], g["base_lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(5.0, 5.0, 0.0), (5.0, 5.0, 0.01)]
    assert not any(g["fused"] for g in optimizer.param_groups), "which kernel steps is this machine's business"


def test_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = made(0, "sgd")
    save_checkpoint(tmp_path, 1, capture(*whole), IDENTITY, Keep())
    net, optimizer, averages = made(0, "sgd")
    net.last = nn.Linear(9, 1)
    with pytest.raises(UserError, match=r"last.weight: found shape \(1, 7\) in the checkpoint; the model has \(1, 9\) now"):
        load_checkpoint(tmp_path, IDENTITY, place=places(net, optimizer, averages))
    net.last = nn.Identity()
    with pytest.raises(UserError, match=r"differ in their weights: last\.bias, last\.weight; start a new run"):
        restore(capture(*whole), net, optimizer, averages)
    with pytest.raises(UserError, match=r"differ in their 0\.5"):
        restore(capture(*whole), *whole[:2], {**whole[2], "0.5": whole[2]["0.9"]})
    with pytest.raises(UserError, match=r"averages that the recipe does not: 0\.9, 0\.999"):
        restore(capture(*whole), *whole[:2], {})
    with pytest.raises(UserError, match="2 groups with other weights than the 1"):
        restore(capture(*whole), whole[0], adamw(whole[0]), whole[2])


def test_an_optimiser_of_other_parameters_is_our_mistake() -> None:
    net, _, averages = made(0, "sgd")
    with pytest.raises(ValueError, match="parameters that the module does not train"):
        capture(net, torch.optim.SGD(net.frozen.parameters(), 0.1), averages)


def whole_net(seed: int) -> nn.Module:
    """A net whose frozen weights are always the same and whose trained ones are drawn from `seed`."""
    torch.manual_seed(0)
    frozen = Net().frozen
    torch.manual_seed(seed)
    net = Net()
    net.frozen = frozen
    net.conv.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other
    net.norm = nn.Identity()  # its statistics would be of one process's part of a batch
    return net


def with_optimizer(net: nn.Module) -> Training:
    return net, adamw(net, fused=True), {"0.9": {n: p.detach().clone() for n, p in trained(net).items()}}


def sharded(seed: int) -> Training:
    net = whole_net(seed)
    fully_shard(net.first)
    fully_shard(net)
    return with_optimizer(net)


def go_on(run: Path, start: int, stop: int) -> tuple[Any, Any]:
    """In every process: resumes where there is something to resume, takes steps, saves; the state before and after, whole."""
    training = sharded(seed=start)
    assert all(isinstance(p, DTensor) for p in trained(training[0]).values())
    if start:
        restore(load_checkpoint(run, IDENTITY, place=places(*training)), *training)
    before = gathered(capture(*training))
    take_steps(*training, range(start, stop))
    assert all(isinstance(s["exp_avg"], DTensor) for s in training[1].state.values())
    save_checkpoint(run, stop, {"step": stop, **capture(*training)}, IDENTITY, Keep())
    return before, gathered(capture(*training))


def gathered(state: Any) -> Any:
    if isinstance(state, dict):
        return {k: gathered(v) for k, v in state.items()}
    if isinstance(state, torch.Tensor):  # as numbers: a tensor's own way to another process needs both alive
        return (state.full_tensor() if isinstance(state, DTensor) else state).tolist()
    return state


def test_a_checkpoint_of_two_processes_goes_on_in_four_and_then_in_one(tmp_path: Path) -> None:
    (_, two), *_ = run_processes(go_on, 2, tmp_path, 0, 3)
    (loaded, four), *_ = run_processes(go_on, 4, tmp_path, 3, 6)
    assert loaded == two
    assert list(tmp_path.glob("checkpoints/step-000006/__3_*")), "every process writes its own shards"

    one = with_optimizer(whole_net(seed=6))
    restore(load_checkpoint(tmp_path, IDENTITY, place=places(*one)), *one)
    assert gathered(capture(*one)) == four
    take_steps(*one, range(6, 9))
    save_checkpoint(tmp_path, 9, {"step": 9, **capture(*one)}, IDENTITY, Keep())
    ((loaded, _), _) = run_processes(go_on, 2, tmp_path, 9, 10)
    assert loaded == gathered(capture(*one)), "and back in two"

    never_stopped = with_optimizer(whole_net(seed=0))
    take_steps(*never_stopped, range(9))
    for name, weight in trained(never_stopped[0]).items():
        torch.testing.assert_close(trained(one[0])[name], weight, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one[2]["0.9"][name], never_stopped[2]["0.9"][name], atol=1e-6, rtol=1e-5)


def resume_with_ddp(run: Path) -> Any:
    net, optimizer, averages = with_optimizer(whole_net(seed=5))
    wrapped = DistributedDataParallel(net)
    restore(load_checkpoint(run, IDENTITY, place=places(wrapped, optimizer, averages)), wrapped, optimizer, averages)
    save_checkpoint(run, 2, capture(wrapped, optimizer, averages), IDENTITY, Keep())
    return gathered(capture(wrapped, optimizer, averages))


def test_copies_of_a_net_share_the_checkpoints_of_one(tmp_path: Path) -> None:
    one = with_optimizer(whole_net(seed=0))
    take_steps(*one, range(2))
    save_checkpoint(tmp_path, 1, capture(*one), IDENTITY, Keep())
    assert run_processes(resume_with_ddp, 2, tmp_path) == [gathered(capture(*one))] * 2
    again = with_optimizer(whole_net(seed=1))
    restore(load_checkpoint(tmp_path, IDENTITY, place=places(*again)), *again)
    assert same(capture(*again), capture(*one))


def capture_unusual() -> str:
    net = sharded(seed=0)[0]
    optimizer = torch.optim.SGD(trained(net).values(), 0.1)
    optimizer.state[net.last.weight]["state1"] = torch.zeros(3, dtype=torch.uint8)
    with pytest.raises(UserError) as caught:
        capture(net, optimizer, {})
    return str(caught.value)


def test_a_state_that_cannot_be_sharded_is_refused() -> None:
    said = run_processes(capture_unusual, 2)
    assert said[0].startswith('the optimiser keeps "state1" of last.weight apart in every process; with sharded weights use')
