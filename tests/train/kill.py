"""Ends real training processes at moments of one's choice, and compares what they leave.

A child is forked from a process that has imported everything, so that a life costs a second and not ten; it is a process of
its own all the same, goes through `editkit.cli.main`, and dies of a real signal. It says on a pipe what it is doing.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

from editkit import cli
from editkit.evaluate import report
from editkit.train import run as running
from editkit.train.checkpoint import list_checkpoints, read_checkpoint
from editkit.train.loop import Trainer

TIMES = ("seconds", "elapsed", "waited")  # the machine's, not the run's
PATIENCE_S = 180.0
FORK = multiprocessing.get_context("fork")

SPEC = """\
format = 1
name = "{name}"
kind = "edit_pairs"
[build]
builder = "avatars"
train = {train}
test = 4
size = {size}
seed = {seed}
"""

RECIPE = """\
format = 1
name = "kill"
seed = 7
[method]
name = "instruct_edit"
conditioning_dropout = 0.1
[model]
family = "stable_diffusion"
base = "{base}"
[data]
train = "large.toml"
mix = [{{ train = "small.toml", weight = 0.5 }}]
resolution = 32
buckets = {{ sides = [24, 32], step = 8, max_aspect = 1 }}
flip = 0.5
cache_texts = true
workers = 3
[optim]
lr = 1e-3
warmup = 2
schedule = "cosine"
[train]
steps = 8
batch_size = 3
accumulate = 2
ema_decay = [0.9, 0.99]
log_every = 1
save_every = 2
preview_every = 3
[evaluate]
pairs = 2
preview_pairs = 2
steps = 2
"""

LORA = """\
[adapter]
name = "lora"
rank = 4
alpha = 4
dropout = 0.2
"""


def write_recipe(folder: Path, base: Path, more: str = "") -> str:
    """Two data sets of other sizes, mixed and in buckets; an epoch has 15 examples and a step about 6."""
    (folder / "large.toml").write_text(SPEC.format(name="large", train=10, size=32, seed=3))
    (folder / "small.toml").write_text(SPEC.format(name="small", train=5, size=24, seed=4))
    (folder / "recipe.toml").write_text(RECIPE.format(base=base) + more)
    return "recipe.toml"


@dataclass
class Child:
    """A training that runs in a process of its own."""

    process: Any
    pipe: int
    output: Path
    begun: float = field(default_factory=time.monotonic)
    _unread: bytes = b""

    def moments(self) -> Iterator[tuple[float, str]]:
        """(Seconds since the start, what it begins or has left) until it ends; "save 4" and "left save 4"."""
        while True:
            ready, _, _ = select.select([self.pipe], [], [], max(0.0, self.begun + PATIENCE_S - time.monotonic()))
            read = os.read(self.pipe, 4096) if ready else b""
            if not read:
                return
            *lines, self._unread = (self._unread + read).split(b"\n")
            for line in lines:
                yield time.monotonic() - self.begun, line.decode()

    def end(self, number: int | None = None) -> int:
        """Sends a signal, if one is given, and waits; the exit code, or minus the signal it died of."""
        if number is not None:
            os.kill(self.process.pid, number)
        self.process.join(PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"a child did not end:\n{self.output.read_text()}")
        os.close(self.pipe)
        return self.process.exitcode


def start(
    arguments: Sequence[str], *, file_limit: tuple[str, int] | None = None, in_child: Callable[[], None] | None = None
) -> Child:
    """Starts `editkit train *arguments` in the current folder.

    Args:
        arguments: of the command line.
        file_limit: from the beginning of this moment no file may be larger than so many bytes, as if the disk were full.
        in_child: what the child does before it begins.
    """
    reading, writing = os.pipe()
    output = Path(f"output-{time.monotonic_ns()}.txt")
    process = FORK.Process(target=_child, args=(list(arguments), reading, writing, output, file_limit, in_child))
    process.start()
    os.close(writing)
    return Child(process, reading, output)


def _child(
    arguments: list[str],
    reading: int,
    writing: int,
    output: Path,
    file_limit: tuple[str, int] | None,
    in_child: Callable[[], None] | None,
) -> None:
    os.close(reading)
    file = os.open(output, os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)  # not the test runner's

    def say(moment: str) -> None:
        os.write(writing, f"{moment}\n".encode())
        if file_limit is not None and moment == file_limit[0]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit[1], file_limit[1]))

    def announced(owner: Any, name: str, moment: Callable[..., str]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def action(*args: Any, **kwargs: Any) -> Any:
            say(moment(*args))
            result = original(*args, **kwargs)
            say(f"left {moment(*args)}" if name != "_one_step" else "left step")
            return result

        setattr(owner, name, action)

    announced(Trainer, "_one_step", lambda trainer, *_: f"step {trainer.step + 1}")
    announced(running, "save_checkpoint", lambda run, step, *_: f"save {step}")
    announced(running, "_preview", lambda setup, run, rank, step: f"preview {step}")
    announced(running._Session, "_fill_caches", lambda _: "fill")
    announced(report, "write_report", lambda _: "report")
    # A fork breaks torch's pool of threads; the first use mends it, but not if two threads are the first at once, as when
    # transformers loads weights ("Invalid thread pool!").
    torch.set_num_threads(torch.get_num_threads())
    # The server from which a builder's processes are forked is the parent's; what this one starts are its own.
    for name in ("_forkserver_pid", "_forkserver_fd", "_forkserver_address", "_forkserver_alive_fd"):
        setattr(forkserver._forkserver, name, None)
    if in_child is not None:
        in_child()
    cli.main(["train", *arguments])


@dataclass(frozen=True)
class Kill:
    """One end of a process.

    Attributes:
        moment: what it was doing.
        after_ms: milliseconds since it began that.
    """

    moment: str
    after_ms: float

    @property
    def kind(self) -> str:
        return f"in {self.moment.partition(' ')[0]}" if not self.moment.startswith("left") else "between"


def train_to_the_end(recipe: str, changes: Sequence[str] = ()) -> tuple[Path, dict[str, float]]:
    """A run that nothing stops.

    Returns:
        Its folder, and how long each kind of moment takes, in seconds: the median.
    """
    before = set(Path("runs").glob("*"))
    child = start([recipe, *_set(changes)])
    spent: dict[str, list[float]] = {}
    began: dict[str, float] = {}
    for at, moment in child.moments():
        kind = moment.removeprefix("left ").partition(" ")[0]
        if moment.startswith("left"):
            spent.setdefault(kind, []).append(at - began[kind])
        else:
            began[kind] = at
    assert child.end() == 0, child.output.read_text()
    (made,) = set(Path("runs").glob("*")) - before
    return made, {kind: sorted(times)[len(times) // 2] for kind, times in spent.items()}


def train_under_kills(
    recipe: str, kinds: Sequence[str], spent: Mapping[str, float], seed: int, changes: Sequence[str] = ()
) -> tuple[Path, list[Kill]]:
    """A run that is killed once in each of `kinds`, in this order, resumed after each, and then left alone.

    Args:
        recipe: the file.
        kinds: "step" or "save", the next or the one after it; or a moment, such as "preview 6", "fill" or "report". Before a
            "fill" the cache is emptied, so that there is something to fill.
        spent: how long each takes, in seconds; the kill comes at a random moment of it, or soon after.
        seed: of the moments.
        changes: further values of the recipe.
    """
    draw = random.Random(seed)
    others = set(Path("runs").glob("*"))
    kills: list[Kill] = []
    run: Path | None = None

    def child() -> Child:
        return start([recipe, *_set(changes), *(["--resume", str(run)] if run else [])])

    for kind in kinds:
        if kind == "fill":
            shutil.rmtree(os.environ["EDITKIT_CACHE"], ignore_errors=True)
        killed = _kill(child(), kind, draw.randint(1, 2), draw.uniform(0, 1.1) * spent[kind.partition(" ")[0]])
        if killed is None:
            break  # it was quicker, and is at its end
        kills.append(killed)
        found = [p for p in set(Path("runs").glob("*")) - others if (p / "run.json").is_file()]
        assert len(found) <= 1, "a resumed run has its own folder again"
        run = found[0] if found else None
    last = child()
    for _ in last.moments():
        pass
    assert last.end() == 0, last.output.read_text()
    assert run is not None
    return run, kills


def _kill(child: Child, kind: str, turn: int, after_s: float) -> Kill | None:
    """Kills a child `after_s` behind the beginning of a moment, or the `turn`-th of a kind; None = it ended before."""
    seen = 0
    moments = child.moments()
    for _, moment in moments:
        if moment.startswith(f"{kind} ") or moment == kind:
            seen += 1
            if moment == kind or seen == turn:
                break
    else:
        code = child.end()
        assert code == 0, child.output.read_text()
        return None
    began = time.monotonic() - child.begun
    time.sleep(after_s)
    os.kill(child.process.pid, signal.SIGKILL)
    killed = time.monotonic() - child.begun
    for at, later in moments:  # what it came to meanwhile
        moment, began = later, at if at < killed else began
    code = child.end()
    assert code in (-signal.SIGKILL, 0), child.output.read_text()
    return Kill(moment, 1000 * (killed - began)) if code else None


def differing(found: Path, expected: Path) -> list[str]:
    """What is not the same in two runs, bit by bit: everything in the last checkpoint but times, and metrics.jsonl."""
    a, b = (_flat(read_checkpoint(list_checkpoints(run)[-1])) for run in (found, expected))
    names = sorted(a.keys() ^ b.keys())
    names += [name for name in sorted(a.keys() & b.keys()) if not _equal(a[name], b[name])]
    same_lines = (found / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    return names if same_lines else [*names, "metrics.jsonl"]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() if key not in TIMES for k, v in _flat(inner, f"{path}/{key}").items()}
    return {path: value}


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def _set(changes: Sequence[str]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]
