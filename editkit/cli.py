"""The verbs. Each parses, calls one function and prints; what happens is in the rooms that it calls."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

import editkit
from editkit.errors import UserError
from editkit.imports import quick_imports

app = App(
    name="editkit",
    help="From pictures to an image-editing model that works: build, check, train, judge, try, publish.",
    version=editkit.__version__,
    suppress_keyboard_interrupt=False,  # `main` says that it stopped
)

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for machines.")]
Run = Annotated[str, Parameter(name="--run", help="A run folder, latest, lab:NAME, a model folder or a Hub id.")]


@app.command
def train(
    recipe: str,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(name="--set", negative="", help="KEY=VALUE, such as train.steps=200.")] = None,
    resume: Annotated[str | None, Parameter(help="Go on with this run.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Set up, take one step, write nothing.")] = False,
) -> None:
    """Train a recipe.

    Example: editkit train recipes/instructpix2pix.toml --set train.steps=200
    """
    with quick_imports():
        from editkit.train.run import train as run_training

    run_training(recipe, set or [], resume, dry_run)


@app.command
def build(
    spec: str,
    /,
    *,
    out: Annotated[str | None, Parameter(help="Folder to write; default data/NAME.")] = None,
    limit: Annotated[int, Parameter(help="Examples a split at most; 0 = all.")] = 0,
    engine: Annotated[str, Parameter(help="Where the work runs: local, or ray (a cluster).")] = "local",
) -> None:
    """Build the data set that a data spec describes.

    Example: editkit build data_specs/avatar_edits.toml
    """
    from editkit.build import build as build_data

    build_data(spec, out, limit, engine)


@app.command
def check(
    what: str,
    /,
    *,
    leaks_from: Annotated[
        list[str] | None, Parameter(name="--leaks-from", negative="", help="An evaluation set that must not be in it.")
    ] = None,
    fix: Annotated[str | None, Parameter(help="New folder for a copy without the faults, as [fix] of the spec says.")] = None,
    json: Json = False,
) -> int:
    """Check a recipe, a data spec or a data set, without training.

    Leaves with 0 when there are no errors; with 1 when there are, or when this machine cannot train the recipe. Warnings and
    notes are printed and change nothing.

    Example: editkit check data_specs/avatar_edits.toml
    """
    with quick_imports():
        from editkit.train.check import check as run_check

    return run_check(what, json=json, leaks_from=leaks_from or [], fix=fix)


@app.command
def edit(
    image: str,
    instruction: str,
    /,
    *,
    run: Run = "latest",
    out: Annotated[str | None, Parameter(name=["--out", "-o"], help="File to write; default NAME-edit.png.")] = None,
    text_guidance: Annotated[float | None, Parameter(help="How strongly the instruction counts.")] = None,
    image_guidance: Annotated[float | None, Parameter(help="How strongly the source counts.")] = None,
    steps: Annotated[int | None, Parameter(help="Sampling steps.")] = None,
    seed: Annotated[int, Parameter(help="Another seed, another edit.")] = 0,
) -> None:
    """Edit one picture.

    Example: editkit edit portrait.png "make the hair red" --run lab:tiny-edit -o red.png
    """
    with quick_imports():
        from editkit.evaluate.edit_file import edit_file

    path = edit_file(
        image, instruction, run, out, text_guidance=text_guidance, image_guidance=image_guidance, steps=steps, seed=seed
    )
    print(path)


@app.command
def generate(
    prompt: str,
    /,
    *,
    run: Run = "latest",
    plan: Annotated[
        bool,
        Parameter(negative="", help="In steps: plan, sketch, verdict, refined picture; as a folder."),
    ] = False,
    start: Annotated[str | None, Parameter(help="With --plan by an editor: the picture to begin with.")] = None,
    out: Annotated[str | None, Parameter(name=["--out", "-o"], help="File, or with --plan folder; default by prompt.")] = None,
    text_guidance: Annotated[float | None, Parameter(help="How strongly the prompt, or the plan, counts.")] = None,
    image_guidance: Annotated[float | None, Parameter(help="With --plan: how strongly the sketches before count.")] = None,
    steps: Annotated[int | None, Parameter(help="Sampling steps of a picture.")] = None,
    seed: Annotated[int, Parameter(help="Another seed, another picture.")] = 0,
    json: Json = False,
) -> int:
    """Draw a picture from words; with --plan in steps that the model plans, looks at and corrects.

    Leaves with 1 when the model stopped before it drew a picture.

    Example: editkit generate "a flat portrait with a red bun and sunglasses" --run lab:tiny-sd
    With --plan, --run is a run that plans, an editor of the avatars world, or a TOML file that names an editor and the chat
    models that plan and inspect (back_ends/).

    Example: editkit generate "a red star left of a blue cup" --plan --run latest
    Example: editkit generate "a flat portrait with a red bun and sunglasses" --plan --run lab:tiny-edit
    """
    with quick_imports():
        from editkit.evaluate.generate_file import print_generated
        from editkit.modular.generate import generate
        from editkit.progress import alone

    guidance = {"text_guidance": text_guidance, "image_guidance": image_guidance}
    with alone(json):
        result = generate(prompt, run, out, plan=plan, start=start, **guidance, steps=steps, seed=seed)
    _report(result, json, print_generated)
    return 0 if result["picture"] else 1


@app.command(name="eval")
def evaluate(
    run: str,
    /,
    *,
    bench: Annotated[
        str | None,
        Parameter(
            help="A data spec; tradeoff; geneval, geneval2, t2i-compbench, wise; plan_refine; default: the recipe's data."
        ),
    ] = None,
    pairs: Annotated[
        int | None, Parameter(help="How many pairs, or lab prompts; default: as the recipe, or the bench, has it.")
    ] = None,
    prompts: Annotated[str, Parameter(help="Of a bench that draws: its prompt file; geneval has 350 of the lab's own.")] = "",
    samples: Annotated[int, Parameter(help="Pictures a prompt; default: as the bench has it (geneval: 4).")] = 0,
    judge: Annotated[str, Parameter(help="Who looks: lab:judges/scene_reader, a run of one, mask2former, FILE.toml.")] = "",
    against: Annotated[str, Parameter(help="Another run, or its results: the paired difference.")] = "",
    json: Json = False,
) -> None:
    """Judge the edits of a run: followed, kept, and both baselines; or, with --bench tradeoff, over image guidance.

    With --bench geneval, geneval2, t2i-compbench or wise a model that draws from text is judged: what is missing is drawn, in
    the official layout under evaluation/ of the run; the same command goes on where it was stopped. A folder in that layout,
    whoever drew it, may stand in the run's place. docs/BENCHES.md says more. With --bench plan_refine all ways to a picture are
    measured with what they cost, the inspector, and what its steps cause: docs/EXPERIMENT.md.

    Example: editkit eval latest --json
    Example: editkit eval runs/plan-refine-20260101-120000 --bench geneval --against runs/tiny-bagel-20260101-110000
    Example: editkit eval latest --bench geneval --prompts evaluation_metadata.jsonl --judge mask2former
    """
    with quick_imports():
        from editkit.evaluate.benches import BenchOptions
        from editkit.evaluate.run import evaluate as run_evaluation
        from editkit.evaluate.run import print_evaluation
        from editkit.progress import alone

    options = BenchOptions(prompts=prompts, samples=samples, judge=judge, against=against)
    with alone(json):
        result = run_evaluation(run, bench=bench, pairs=pairs, options=options)
    _report(result, json, print_evaluation)


@app.command
def compare(runs: list[str], /, *, json: Json = False) -> None:
    """Compare runs: what differs in their recipes, their scores, their time.

    Example: editkit compare runs/instructpix2pix-20260101-120000 latest
    """
    from editkit.evaluate.compare import compare as compare_runs
    from editkit.evaluate.compare import print_comparison

    _report(compare_runs(runs), json, print_comparison)


@app.command
def demo(
    which: str = "edit",
    /,
    *,
    run: Annotated[
        str | None, Parameter(help="A run, lab:NAME or a Hub id; of pairs, a data set. Default: the latest.")
    ] = None,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on.")] = 7860,
) -> None:
    """Try a model in the browser, or look through the pairs of a data set and decide about them.

    The pages: edit, pairs, and plan_refine, where a person steps in while a picture is drawn in steps.

    Example: editkit demo edit --run latest
    Example: editkit demo pairs --run data_specs/avatar_edits.toml
    Example: editkit demo plan_refine --run latest
    """
    from apps import launch

    launch(which, run, host, port)


@app.command
def publish(
    what: str,
    /,
    *,
    repo: Annotated[str, Parameter(help="USER/NAME on the Hub.")],
    private: Annotated[bool, Parameter(negative="", help="Make the repository private.")] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Write the folder, upload nothing.")] = False,
) -> None:
    """Publish a run, or a data set by its folder or spec, on the Hub, with a card that says what happened.

    Example: editkit publish latest --repo me/avatar-editor
    """
    from editkit.publish.hub import publish as publish_anything

    print(publish_anything(what, repo, private=private, dry_run=dry_run))


@app.command
def env(
    *,
    bundle: Annotated[str | None, Parameter(help="Pack this run for an issue report, without weights and secrets.")] = None,
    json: Json = False,
) -> None:
    """Show versions, devices, attention back ends, and what each missing extra costs.

    Example: editkit env
    """
    from editkit.environment import describe, print_environment

    if bundle is not None:
        from editkit.bundle import bundle as pack

        print(pack(bundle))
        return
    _report(describe(), json, print_environment)


def _report(result: Any, json: bool, show: Any) -> None:
    if json:
        print(jsonlib.dumps(result, indent=1))
    else:
        show(result)


def main(arguments: list[str] | None = None) -> None:
    """Runs a verb: exit code 0 only on success, 2 with one clear line for a user's mistake."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of every optional package that is not installed
    # Before torch is there: large tensors of the CPU on huge pages, of which the kernel has fewer to zero and to look up.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UserError as error:
        print("\n".join([f"editkit: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(2)
    except CycloptsError as error:
        first = str(error).strip().splitlines()[0]
        print(f'editkit: {first} See "editkit --help".', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("editkit: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
