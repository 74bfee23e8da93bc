"""One run, from a recipe to a folder: set up, train, export, evaluate, report."""

from __future__ import annotations

import contextlib
import json
import platform
import signal
import sys
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from editkit.data.check import audit_pictures
from editkit.data.examples import Dataset
from editkit.data.prepare import PrepareParams
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.evaluate.report import write_report
from editkit.evaluate.scores import print_scores
from editkit.methods import method_class
from editkit.methods.protocol import Method
from editkit.models import METADATA, family
from editkit.models.networks import awake, park_all, prepare_networks
from editkit.models.precision import check_numerics, choose_device, computing, describe_numerics, to_channels_last
from editkit.recipe.load import Source, dump, load_recipe, options, recipe_hash
from editkit.recipe.schema import Recipe
from editkit.runs import find_run, new_run_folder
from editkit.train.batches import BatchSource
from editkit.train.checkpoint import load_checkpoint, save_checkpoint
from editkit.train.loop import Hooks, Trainer

FORMAT = 1
PACKAGES = ("editkit", "torch", "diffusers", "transformers", "peft", "datasets", "pillow", "numpy")


@dataclass
class Setup:
    """Everything that a recipe stands for, ready to train."""

    recipe: Recipe
    method: Method
    train: Dataset[Any]
    test: Dataset[Any]
    usable: list[int]
    device: torch.device
    numerics: list[str]  # lines for the header


def train(recipe_path: str, overrides: list[str], resume: str | None = None, dry_run: bool = False) -> Path:
    """Trains a recipe to the end.

    Args:
        recipe_path: the TOML file.
        overrides: "a.b=value" each.
        resume: a run to go on with; its recipe must be the same.
        dry_run: set up, take one step without saving anything, and say what a run would be.

    Returns:
        The run folder (of a dry run, the current folder).
    """
    recipe, source = load_recipe(recipe_path, overrides)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    setup = prepare_run(recipe, source)
    if dry_run:
        return _dry_run(setup)
    run = find_run(resume) if resume else new_run_folder(recipe.name)
    return _train(setup, run, resume is not None)


def prepare_run(recipe: Recipe, source: Source | None) -> Setup:
    """Opens the data, checks it, loads the model and makes the method; raises UserError before anything is written."""
    device = choose_device()
    check_numerics(recipe.train, device)
    kind = method_class(recipe.method.name)
    method_options = options(recipe.method, kind.Options, "method", source)
    networks = family(recipe.model.family)
    model_options = options(recipe.model, networks.Options, "model", source)
    train_set = open_dataset(recipe.data.train, "train", limit=recipe.data.limit)
    test_set = open_dataset(recipe.data.test or recipe.data.train, "test")
    _check_kind(recipe, kind, train_set)
    usable = audit_pictures(train_set, recipe.data.max_skipped)
    if len(usable) < len(train_set):
        print(f"{len(train_set) - len(usable)} of {len(train_set)} examples are skipped: their pictures cannot be read")
    torch.manual_seed(recipe.seed)  # for the weights that are made anew
    parts = networks.load(recipe.model.base, model_options, lambda: _texts(train_set))
    method = kind(recipe, method_options, parts)
    for module in parts.modules.values():
        module.to(device)
        if recipe.train.channels_last:
            to_channels_last(module)
    notes = prepare_networks(recipe.train, method.trainable, method.parameter_groups(), recipe.optim.lr, device)
    return Setup(recipe, method, train_set, test_set, usable, device, describe_numerics(recipe.train, device, notes=notes))


def check_recipe(recipe_path: str) -> dict[str, Any]:
    """Validates a recipe without training: loads it, opens its data and its model, and counts."""
    recipe, source = load_recipe(recipe_path)
    setup = prepare_run(recipe, source)
    return _describe(setup)


def _describe(setup: Setup) -> dict[str, Any]:
    recipe = setup.recipe
    trained = sum(p.numel() for p in setup.method.trainable.parameters() if p.requires_grad)
    samples = recipe.train.steps * recipe.train.batch_size * recipe.train.accumulate
    return {
        "recipe": recipe.name,
        "method": recipe.method.name,
        "base": recipe.model.base or "random weights",
        "trained parameters": trained,
        "training examples": len(setup.usable),
        "test examples": len(setup.test),
        "samples": samples,
        "epochs": round(samples / len(setup.usable), 2),
        "device": str(setup.device),
        "precision": recipe.train.precision,
    }


def _texts(dataset: Dataset[Any]) -> Iterable[str]:
    for i in range(len(dataset)):
        example = dataset[i]
        yield from getattr(example, "captions", None) or example.instructions


def _check_kind(recipe: Recipe, kind: Any, dataset: Dataset[Any]) -> None:
    found = dataset.info["kind"]
    if found != kind.kind:
        raise UserError(f'{recipe.data.train}: found {found}; the method "{recipe.method.name}" learns from {kind.kind}')
    if len(dataset) == 0:
        raise UserError(f"{recipe.data.train}: found no training examples")


def _train(setup: Setup, run: Path, resuming: bool) -> Path:
    recipe = setup.recipe
    identity = {"recipe": _identity(recipe), "data": setup.train.info["sha256"], "torch": version("torch")}
    trainer = Trainer(recipe, setup.method, setup.device)
    record = _Record(run, setup, resuming)
    if resuming:
        trainer.load_state_dict(load_checkpoint(run, identity))
        record.cut_metrics(trainer.step)
        print(f"{run}: goes on at step {trainer.step}")
    print(_header(setup, run), *setup.numerics, sep="\n")
    batches = BatchSource(recipe, setup.method, setup.train, setup.usable, setup.device)
    if recipe.train.offload == "encoders":
        park_all(setup.method.frozen_encoders.values())
    hooks = Hooks(
        log=record.log,
        save=lambda step, state: save_checkpoint(run, step, state, identity, recipe.train.keep_last),
        preview=lambda step: _preview(setup, run, trainer, record, step),
    )
    try:
        with _stopping_on_signals(trainer):
            trainer.run(batches, hooks)
    except KeyboardInterrupt:
        record.finish("stopped", trainer)
        print(f"\nstopped at step {trainer.step}, saved; go on with --resume {run}")
        raise
    except BaseException:
        record.finish("failed", trainer)
        raise
    _finish(setup, run, trainer, record)
    return run


@contextlib.contextmanager
def _stopping_on_signals(trainer: Trainer) -> Generator[None, None, None]:
    """Lets Ctrl-C, and the SIGTERM of a preempted machine, stop the training after the step in hand, with a checkpoint.

    An exception in the middle of an optimiser step would leave half of the weights a step ahead.
    """

    def ask(number: int, _: object) -> None:
        trainer.stop_requested = True
        print("stopping after this step", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(setup: Setup, run: Path, trainer: Trainer, record: _Record) -> None:
    """Exports the averaged weights, previews and judges them, and writes the report."""
    setup.method.trainable.eval()
    with trainer.average.applied():
        setup.method.finish(setup.train)
        exported = setup.method.export(run)
        (exported / METADATA).write_text(json.dumps(_metadata(setup), indent=1), encoding="utf-8")
        _preview(setup, run, trainer, record, trainer.step)
        if setup.recipe.evaluate.pairs:
            with _sampling(setup):
                scores = setup.method.evaluate(setup.test, run)
            record.log({"kind": "final", **_where(trainer), **scores})
            (run / "evaluation").mkdir(exist_ok=True)
            (run / "evaluation" / "scores.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
            print_scores(scores)
    record.finish("done", trainer)
    print(f"report: {write_report(run)}")


def _preview(setup: Setup, run: Path, trainer: Trainer, record: _Record, step: int) -> None:
    folder = run / "previews"
    folder.mkdir(exist_ok=True)
    with _sampling(setup):
        scores = setup.method.preview(setup.test, folder, step)
    if scores:
        record.log({"kind": "eval", **_where(trainer), **scores})


@contextlib.contextmanager
def _sampling(setup: Setup) -> Generator[None, None, None]:
    """The numbers of the training, the encoders at hand, and nothing compiled: batches of samples have other shapes."""
    options = setup.recipe.train
    eager = torch.compiler.set_stance("force_eager") if options.compile else contextlib.nullcontext()
    encoders = setup.method.frozen_encoders.values()
    with computing(setup.device, options.precision, options.attention), eager, awake(encoders, setup.device):
        yield


def _where(trainer: Trainer) -> dict[str, Any]:
    return {"step": trainer.step, "samples": trainer.samples, "time_s": round(trainer.seconds, 3)}


def _dry_run(setup: Setup) -> Path:
    trainer = Trainer(setup.recipe, setup.method, setup.device)
    picked = setup.usable[: setup.recipe.train.batch_size * setup.recipe.train.accumulate]
    batches = BatchSource(setup.recipe, setup.method, setup.train, picked, setup.device)
    started = time.perf_counter()
    trainer.dry_step(batches)
    seconds = time.perf_counter() - started
    for key, value in {**_describe(setup), "first step": f"{seconds:.2f} s"}.items():
        print(f"{key:>20}  {value}")
    return Path()


def _identity(recipe: Recipe) -> str:
    """What a resume must share: everything but how it is watched, and how long it runs where that changes no step."""
    steps = 1 if recipe.optim.schedule == "constant" else recipe.train.steps
    watched = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(
                update={"steps": steps, "log_every": 1, "save_every": 0, "preview_every": 0, "keep_last": 1, "threads": 0}
            ),
            "evaluate": type(recipe.evaluate)(),
        }
    )
    return recipe_hash(watched)


def _header(setup: Setup, run: Path) -> str:
    facts = _describe(setup)
    return (
        f"{run}: {facts['trained parameters']:,} parameters of {facts['base']} on {facts['training examples']:,} examples, "
        f"{facts['samples']:,} samples ({facts['epochs']} epochs), {facts['device']}, {facts['precision']}"
    )


def _metadata(setup: Setup) -> dict[str, Any]:
    """What a user of the weights needs beside them: the one preprocessing path and the default guidance."""
    recipe = setup.recipe
    return {
        "format": FORMAT,
        "name": recipe.name,
        "method": recipe.method.name,
        "base": recipe.model.base,
        "prepare": PrepareParams(recipe.data.resolution, recipe.data.crop).as_dict(),
        "sampling": {
            "steps": recipe.evaluate.steps,
            "text_guidance": recipe.evaluate.text_guidance,
            "image_guidance": recipe.evaluate.image_guidance,
        },
    }


class _Record:
    """What the run folder says about itself: recipe.toml, run.json and metrics.jsonl."""

    def __init__(self, run: Path, setup: Setup, resuming: bool) -> None:
        self._run = run
        self._metrics = run / "metrics.jsonl"
        info = setup.train.info
        if resuming:
            self._facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
            self._facts["state"] = "running"
        else:
            (run / "recipe.toml").write_text(dump(setup.recipe), encoding="utf-8")
            self._facts = {
                "format": FORMAT,
                "name": setup.recipe.name,
                "recipe_sha256": recipe_hash(setup.recipe),
                "method": setup.recipe.method.name,
                "base": setup.recipe.model.base,
                "seed": setup.recipe.seed,
                "trained_parameters": _describe(setup)["trained parameters"],
                "data": {k: info[k] for k in ("name", "kind", "sha256", "counts", "licences") if k in info}
                | {"categories": info.get("categories", {}), "skipped": len(setup.train) - len(setup.usable)},
                "versions": {p: version(p) for p in PACKAGES} | {"python": platform.python_version()},
                "machine": machine_facts(setup.device),
                "started": _now(),
                "state": "running",
            }
        self._write()

    def log(self, line: Mapping[str, Any]) -> None:
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Drops the lines of steps that a resumed run takes again."""
        if not self._metrics.is_file():
            return
        lines = [s for s in self._metrics.read_text(encoding="utf-8").splitlines() if json.loads(s)["step"] <= step]
        self._metrics.write_text("".join(s + "\n" for s in lines), encoding="utf-8")

    def finish(self, state: str, trainer: Trainer) -> None:
        self._facts |= {
            "state": state,
            "finished": _now(),
            "seconds": round(trainer.seconds, 1),
            "steps": trainer.step,
            "samples": trainer.samples,
        }
        self._write()

    def _write(self) -> None:
        staging = self._run / "run.json.staging"
        staging.write_text(json.dumps(self._facts, indent=1), encoding="utf-8")
        staging.replace(self._run / "run.json")


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What a figure has to be reported with: device, its name, threads, system."""
    name = platform.processor() or platform.machine()
    if device.type == "cpu":
        info = Path("/proc/cpuinfo")
        models = [s for s in info.read_text().splitlines() if s.startswith("model name")] if info.is_file() else []
        name = models[0].partition(":")[2].strip() if models else name
    elif device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": device.type, "name": name, "threads": torch.get_num_threads(), "system": platform.system()}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
