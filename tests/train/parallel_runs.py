"""Runs in one process and in several, through the command line, with what each process saw and held written down."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from editkit.methods.instruct_edit import InstructEdit
from editkit.train import launch
from editkit.train.batches import BatchSource, Taken
from editkit.train.checkpoint import list_checkpoints, read_checkpoint
from editkit.train.loop import Hooks, Trainer
from editkit.train.parallel import Layout
from tests.train.kill import SPEC, start

BATCHES = 4  # of 2 examples in a step, however they are divided

RECIPE = """\
format = 1
name = "parallel"
seed = 7
[method]
name = "instruct_edit"
conditioning_dropout = 0.1
{method}
[model]
family = "stable_diffusion"
base = "{base}"
[data]
train = "pairs.toml"
resolution = 32
flip = 0.5
[optim]
lr = 1e-3
eps = 1e-6
weight_decay = 0.1
max_grad_norm = 0.5
[train]
steps = 3
batch_size = 2
accumulate = 4
ema_decay = [0.9, 0.99]
log_every = 1
save_every = 1
keep_last = 9
[evaluate]
steps = 1
"""

KINDS = {  # what is trained: further lines of [method], further tables
    "full": ("text_encoder_lr = 1e-4", ""),
    "lora": ("", '[adapter]\nname = "lora"\nrank = 4\nalpha = 4\ndropout = 0.2\n'),
}


def write_recipe(folder: Path, base: Path, kind: str) -> str:
    """The recipe `kind`.toml and its data."""
    method, more = KINDS[kind]
    (folder / "pairs.toml").write_text(SPEC.format(name="pairs", train=20, size=32, seed=3))
    (folder / f"{kind}.toml").write_text(RECIPE.format(base=base, method=method) + more)
    return f"{kind}.toml"


def divided(layout: str, processes: int, shard: int = 1) -> list[str]:
    """Values of a recipe with which so many processes take the same steps as one."""
    return [
        f"parallel.processes={processes}", f"parallel.layout={layout}", f"parallel.shard={shard}",
        f"train.accumulate={BATCHES // processes}",
    ]  # fmt: skip


def begin(recipe: str, changes: Sequence[str], resume: Path | None = None, in_child: Callable[[], None] = lambda: None) -> Any:
    """Starts a run as `tests.train.kill.start` does; every process writes `seen-RANK.json` at its end."""

    def prepare() -> None:
        spy()
        in_child()

    set_ = [part for change in changes for part in ("--set", change)]
    return start([recipe, *set_, *(["--resume", str(resume)] if resume else [])], in_child=prepare)


def train(
    recipe: str, changes: Sequence[str] = (), resume: Path | None = None, in_child: Callable[[], None] = lambda: None
) -> tuple[Path, list[dict[str, Any]]]:
    """A whole run: its folder, and what each process saw."""
    before = set(Path("runs").glob("*"))
    for old in Path().glob("seen-*.json"):
        old.unlink()
    child = begin(recipe, changes, resume, in_child)
    for _ in child.moments():
        pass
    assert child.end() == 0, child.output.read_text()
    made = set(Path("runs").glob("*")) - before
    return resume or made.pop(), [json.loads(p.read_text()) for p in sorted(Path().glob("seen-*.json"))]


def poison(position: int, factor: float, patch: Callable[[Any, str, Any], object] = setattr) -> None:
    """Multiplies the loss of the batch that holds the example at this position of the stream."""
    original = InstructEdit.loss

    def loss(method: InstructEdit, batch: Any, draws: Any) -> Any:
        found = original(method, batch, draws)
        is_poisoned = any(int(s.bit_generator.state["state"]["key"][1]) == position for s in draws._streams)
        return dataclasses.replace(found, value=found.value * factor) if is_poisoned else found

    patch(InstructEdit, "loss", loss)


def spy() -> None:
    """In a child and, because they are forked, in its processes: notes what is exchanged, taken and held."""
    launch.START = "fork"
    seen: dict[str, Any] = {"positions": [], "local_norms": [], "norms": []}

    def around(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        setattr(owner, name, wrap(getattr(owner, name)))

    def take(original: Callable[..., Taken]) -> Callable[..., Taken]:
        def taking(source: BatchSource) -> Taken:
            taken = original(source)
            seen["positions"].append(list(taken.planned.positions))
            return taken

        return taking

    def gradients(original: Any) -> Any:
        @contextlib.contextmanager
        def passing(layout: Layout, *, synchronise: bool) -> Generator[None, None, None]:
            with original(layout, synchronise=synchronise):
                yield
            parameters = [p for network in layout._networks for p in network.parameters() if p.requires_grad]
            held = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters if p.grad is not None]
            seen["norms" if synchronise else "local_norms"].append(
                torch.stack([h.norm() for h in held]).norm().item() if held else None
            )

        return passing

    def run(original: Callable[..., None]) -> Callable[..., None]:
        def running(trainer: Trainer, hooks: Hooks) -> None:
            rank = trainer._layout.rank
            Path(f"pid-{rank}").write_text(str(os.getpid()))
            original(trainer, hooks)
            trained = [p for p in trainer._method.trainable.parameters() if p.requires_grad]
            tensors = {
                "weights": trained,
                "averages": [t for average in trainer._average._averages.values() for t in average.values()],
                "optimizer": [t for p in trained for name, t in trainer._optimizer.state[p].items() if name != "step"],
            }
            held = {
                kind: {
                    "sharded": all(isinstance(t, DTensor) for t in some),
                    "local": sum((t.to_local() if isinstance(t, DTensor) else t).numel() for t in some),
                    "full": sum(t.numel() for t in some),
                }
                for kind, some in tensors.items()
            }
            Path(f"seen-{rank}.json").write_text(json.dumps({**seen, "held": held}))

        return running

    around(BatchSource, "take", take)
    around(Layout, "gradients", gradients)
    around(Trainer, "run", run)


def differences(found: Path, expected: Path) -> dict[str, float]:
    """The largest absolute differences: of the loss and gradient norm at every step, of final weights, averages, moments."""

    def lines(run: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    a, b = lines(found), lines(expected)
    assert [x["step"] for x in a] == [x["step"] for x in b], "every step has its line"
    result = {}
    for name in ("loss", "grad_norm"):
        assert [name in x for x in a] == [name in x for x in b], "the same steps were passed over"
        result[name] = max(abs(x[name] - y[name]) for x, y in zip(a, b, strict=True) if name in x)
    c, d = (read_checkpoint(list_checkpoints(run)[-1]) for run in (found, expected))
    for kind, some, others in (
        ("weights", c["weights"], d["weights"]),
        *((f"average {decay}", c["averages"][decay], d["averages"][decay]) for decay in d["averages"]),
    ):
        assert some.keys() == others.keys()
        result[kind] = max((some[n] - others[n]).abs().max().item() for n in others)
    return result
