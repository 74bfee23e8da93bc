"""One run, from a recipe to a folder: set up, train, export, evaluate, report."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from editkit.bundle import HINT
from editkit.data.cache import open_cache
from editkit.data.sampler import ShuffledStream
from editkit.errors import UserError
from editkit.evaluate.scores import print_scores
from editkit.models import METADATA
from editkit.models.networks import awake, park_all
from editkit.models.precision import choose_device, computing
from editkit.recipe.load import Source, load_recipe
from editkit.recipe.schema import Recipe
from editkit.runs import find_run, hold_run, new_run_folder
from editkit.train.batches import BatchSource
from editkit.train.checkpoint import Keep, load_checkpoint, note_metrics, save_checkpoint, was_saved
from editkit.train.ema import PostHocAverage
from editkit.train.expected import expected_line
from editkit.train.identity import identity_of, released_options
from editkit.train.launch import is_launched, launch
from editkit.train.loop import Hooks, Trainer
from editkit.train.memory import give_back_freed_memory, keep_freed_memory
from editkit.train.parallel import Layout, process_group
from editkit.train.post_hoc import reconstruct
from editkit.train.ranks import on_first, together
from editkit.train.record import PREVIEWS, Record
from editkit.train.setup import Setup, data_facts, describe, header, make_stream, metadata, prepare_run
from editkit.train.survey import survey
from editkit.train.track import Tracking, check_tracking

SNAPSHOTS = "snapshots"  # folder of the run, for `editkit.train.post_hoc.reconstruct`


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
    check_tracking(recipe.tracking)
    if dry_run:
        _dry_run(prepare_run(recipe, source))
        return Path()
    run = find_run(resume) if resume else None
    if recipe.parallel.processes > 1 and not is_launched():
        launch(recipe.parallel.processes, train_here, recipe, source, run)
        return run or find_run("latest")
    return train_here(recipe, source, run)


def train_here(recipe: Recipe, source: Source | None, resumed: Path | None) -> Path:
    """Trains in this process, which may be one of several.

    Args:
        recipe: the resolved recipe.
        source: where it was written.
        resumed: the run to go on with; None = a new one.

    Returns:
        The run folder.
    """
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    keep_freed_memory()
    with contextlib.ExitStack() as held:
        with process_group(choose_device()) as rank:
            setup = prepare_run(recipe, source)
            run = resumed or Path(on_first(lambda: str(new_run_folder(recipe.name))))
            on_first(lambda: held.enter_context(hold_run(run)))
            session = _Session(setup, run, resumed is not None)
            with _explaining_the_disk(run):
                session.run()
            world = session.layout.world
            if world > 1:
                session.close()
        if rank:
            return run
        if world > 1:  # what is exported and judged is the whole model in one process, read from the last checkpoint
            session = _Session(prepare_run(recipe, source), run, resuming=True, processes=world)
        with _explaining_the_disk(run):
            session.finish()
        return run


class _Session:
    """A trainer with its batches and its run folder.

    Args:
        setup: what the recipe stands for.
        run: the folder.
        resuming: whether the run is there already; one that was ended before its first checkpoint begins anew.
        processes: that trained the run, where they were others than those of now.
    """

    def __init__(self, setup: Setup, run: Path, resuming: bool, processes: int = 0) -> None:
        recipe = setup.recipe
        self._setup = setup
        self._run = run
        self.layout = Layout(recipe, setup.device)
        self._identity = identity_of(recipe, setup.made_from, processes or self.layout.world)
        self._keep = Keep(recipe.train.keep_last, recipe.train.keep_best, recipe.train.best_metric)
        self._survey = survey(setup.train, setup.all_usable, setup.method, recipe.data)
        self._store = open_cache() if recipe.data.cache_latents or recipe.data.cache_texts else None
        self._batches = BatchSource(
            recipe,
            setup.method,
            setup.train,
            self._survey,
            make_stream(setup),
            setup.device,
            self._store if recipe.data.cache_latents else None,
            self.layout.rank,
            self.layout.world,
        )
        trained = describe(setup)["trained parameters"]  # of the whole model, before it is cut into shards
        self._header = header(setup, run, self.layout)
        self._trainer = Trainer(recipe, setup.method, self._batches, setup.device, self.layout)
        self._record = Record(run, writes=self.layout.rank == 0, tracking=Tracking(recipe, run))
        self._stopping = _Stopping(self._trainer)
        self._logged: Mapping[str, Any] = {}
        self._saved = -1
        if resuming and on_first(lambda: was_saved(run)):
            self._trainer.load_state_dict(self._load(), released_options(recipe.train.resume_despite))
            self._logged = self._record.go_on(recipe, self._trainer.step)
            self._saved = self._trainer.step
            print(f"{run}: goes on at step {self._trainer.step}")
        else:
            if resuming:
                print(f"{run}: was ended before its first checkpoint, so it begins anew")
            self._record.begin(recipe, {"trained_parameters": trained, **data_facts(setup)})

    def _load(self) -> dict[str, Any]:
        despite = self._setup.recipe.train.resume_despite
        return load_checkpoint(self._run, self._identity, despite, self._trainer.places())

    def run(self) -> None:
        """Trains to the last step."""
        trainer = self._trainer
        for line in [self._header, *self._setup.numerics, *self._survey.lines()]:
            print(line)
        if self.layout.rank == 0:
            print(expected_line(self._setup, trainer.step))
            self._survey.write(self._run / "data.csv")
        hooks = Hooks(self._log, self._record.pace, self._save, self._preview, self._failed, self._roll_back, self._snapshot)
        try:
            with _stopping_on_signals(self._stopping):
                with self._stopping.at_once():
                    self._fill_caches()
                trainer.run(hooks)
        except KeyboardInterrupt:
            # It came between two steps. Several processes may have been in different places, before the first of their steps.
            if self._saved != trainer.step and self.layout.world == 1:
                self._save(trainer.step, trainer.state_dict())
            if self._stopping.cut_off:
                self._stopped()
            else:  # all processes are here, and none leaves while another may still hear from it
                together(self._stopped)
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._batches.close()

    def _stopped(self) -> None:
        self._record.finish("stopped", **self._figures())
        step = self._trainer.step
        at = f"at step {step}, saved" if self._saved == step else "before the first checkpoint"
        print(f"\nstopped {at}; go on with --resume {self._run}")

    def _fail(self, error: BaseException) -> None:
        with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
            self._record.finish("failed", **self._figures())
        error.add_note(HINT.format(run=self._run))  # the last line of what is said, traceback or not

    def close(self) -> None:
        """Another session goes on with this run."""
        self._record.close()

    def _fill_caches(self) -> None:
        print(self._batches.fill_cache())
        if self._store is not None and self._setup.recipe.data.cache_texts:
            dataset = self._setup.train
            texts = (t for i in self._setup.all_usable for t in self._setup.method.texts_of(dataset[i]))
            self._setup.method.cache_texts(texts, self._store)
        recipe = self._setup.recipe
        if recipe.train.offload != "none" and recipe.data.cache_latents:
            park_all(self._setup.method.resting)
        give_back_freed_memory()

    def _log(self, line: Mapping[str, Any]) -> None:
        self._logged = line
        self._record.log(line)

    def _save(self, step: int, state: Mapping[str, Any]) -> None:
        figures = {k: v for k, v in self._logged.items() if isinstance(v, int | float)}
        save_checkpoint(self._run, step, state, self._identity, self._keep, figures)
        self._saved = step

    def _snapshot(self, average: PostHocAverage) -> None:
        average.save_snapshot(self._run / SNAPSHOTS)

    def _roll_back(self) -> dict[str, Any]:
        state = self._load()
        self._record.cut(state["step"])
        return state

    def _failed(self, what: Mapping[str, Any], taken: Any) -> None:
        self._record.failed(what, taken, self._setup.train, self._survey.usable)
        if self.layout.rank == 0:
            print(f"\nstep {what['step']}: {what['why']}: {what['action']}", file=sys.stderr)

    def _preview(self, step: int) -> None:
        # Several processes have to be in the same place when they save, so there a signal waits for the preview's end.
        with self._stopping.at_once() if self.layout.world == 1 else contextlib.nullcontext():
            scores = _preview(self._setup, self._run, self.layout.rank, step)
        self._record.previewed(step)
        if scores:
            self._record.log({"kind": "eval", "step": step, "samples": self._trainer.samples, **scores})
            if self._saved == step:  # a preview between two checkpoints belongs to none
                numbers = {k: v for k, v in scores.get("scores", {}).items() if isinstance(v, int | float)}
                note_metrics(self._run, step, numbers, self._keep)

    def finish(self) -> None:
        """Exports the averaged weights, previews and judges them, and writes the report."""
        try:
            self._finish()
        except KeyboardInterrupt:
            self._record.finish("stopped", **self._figures())
            print(f"\nstopped after the last step; export and scores are made by --resume {self._run}")
            raise
        except BaseException as error:
            self._fail(error)
            raise

    def _finish(self) -> None:
        setup, run, trainer, recipe = self._setup, self._run, self._trainer, self._setup.recipe
        sigma_rel = recipe.train.export_sigma_rel
        with trainer.shown(reconstruct(run / SNAPSHOTS, sigma_rel) if sigma_rel else None):
            setup.method.finish(setup.train)
            exported = setup.method.export(run)
            (exported / METADATA).write_text(json.dumps(metadata(setup), indent=1), encoding="utf-8")
            self._preview(trainer.step)
            if recipe.evaluate.pairs:
                with _sampling(setup):
                    scores = setup.method.evaluate(setup.test, run)
                figures = {k: v for k, v in scores.items() if k != "scores"}
                figures["scores"] = {k: v for k, v in scores["scores"].items() if k != "seconds"}  # the machine's
                self._record.log({"kind": "final", "step": trainer.step, "samples": trainer.samples, **figures})
                (run / "evaluation").mkdir(exist_ok=True)
                (run / "evaluation" / "scores.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
                print_scores(scores)
        from editkit.evaluate.report import write_report  # with the plots' library, which no step waits for

        self._record.finish("done", **self._figures())
        print(f"report: {write_report(run)}")

    def _figures(self) -> dict[str, Any]:
        trainer = self._trainer
        return {"seconds": round(trainer.seconds, 1), "steps": trainer.step, "samples": trainer.samples}


@contextlib.contextmanager
def _explaining_the_disk(run: Path) -> Generator[None, None, None]:
    """A line for the user where the disk is full, whoever met it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = re.search(r"os error (\d+)", str(error))  # safetensors knows it by its text alone
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{run}: {os.strerror(number)}; checkpoints are whole or not there, so make space and go on with --resume {run}"
        ) from error


class _Stopping:
    """What a signal does: in a step it asks for an end behind it; elsewhere it can end at once."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._now = False
        self.cut_off = False  # whether it ended something at once

    @contextlib.contextmanager
    def at_once(self) -> Generator[None, None, None]:
        """Around work that loses nothing when it is cut off."""
        self._now = True
        try:
            yield
        finally:
            self._now = False

    def ask(self, number: int, _: object) -> None:
        self._trainer.stop_requested = True
        if self._now:
            self.cut_off = True
            raise KeyboardInterrupt
        print("stopping after this step", file=sys.stderr)


@contextlib.contextmanager
def _stopping_on_signals(stopping: _Stopping) -> Generator[None, None, None]:
    """Lets Ctrl-C, and the SIGTERM of a preempted machine, stop the training after the step in hand, with a checkpoint.

    An exception in the middle of an optimiser step would leave half of the weights a step ahead.
    """
    before = {number: signal.signal(number, stopping.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _preview(setup: Setup, run: Path, rank: int, step: int) -> Mapping[str, Any]:
    """Previews in every process, for sharded networks need all of them; the first one's pictures are kept."""
    folder = run / PREVIEWS if rank == 0 else run / PREVIEWS / f".process-{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    give_back_freed_memory()
    with _sampling(setup):
        scores = setup.method.preview(setup.test, folder, step)
    give_back_freed_memory()
    if rank:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    return scores


@contextlib.contextmanager
def _sampling(setup: Setup) -> Generator[None, None, None]:
    """The numbers of the training, the encoders at hand, and nothing compiled: batches of samples have other shapes."""
    options = setup.recipe.train
    eager = torch.compiler.set_stance("force_eager") if options.compile else contextlib.nullcontext()
    with computing(setup.device, options.precision, options.attention), eager, awake(setup.method.resting, setup.device):
        yield


def _dry_run(setup: Setup) -> None:
    recipe = setup.recipe
    picked = setup.all_usable[: recipe.train.batch_size * recipe.train.accumulate]
    looked = survey(setup.train, picked, setup.method, recipe.data)
    stream = ShuffledStream(len(picked), recipe.seed)
    batches = BatchSource(recipe, setup.method, setup.train, looked, stream, setup.device, None)
    trainer = Trainer(recipe, setup.method, batches, setup.device, Layout(recipe, setup.device))
    started = time.perf_counter()
    trainer.dry_step()
    seconds = time.perf_counter() - started
    batches.close()
    for key, value in {**describe(setup), "first step": f"{seconds:.2f} s"}.items():
        print(f"{key:>20}  {value}")
