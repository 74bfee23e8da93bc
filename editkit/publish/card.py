"""The card of a published model: what was trained, on what, how well it does, how to load it. Only what the run knows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from editkit.evaluate.scores import BASELINES, FIGURES, figure, figures_of, kinds_of
from editkit.models.adapters import PEFT_CONFIG, TEXT_ENCODER
from editkit.models.stable_diffusion.drawn import drawn_in
from editkit.publish.export import SAMPLES_FILE, FinishedRun

LICENCE_FILE = "LICENSE.md"  # the Hub's spelling

LOAD_EDITOR = """\
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image, ImageOps

pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained("{repo}")
{use}"""

LOAD_DIFFERENCE = """\
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import retrieve_latents
from PIL import Image, ImageOps

pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained("{repo}")
source = ImageOps.fit(Image.open("source.png").convert("RGB"), ({side}, {side}))
drawn = pipe({instruction}, image=source, num_inference_steps={steps}, guidance_scale={text_guidance:g}, \
image_guidance_scale={image_guidance:g}, output_type="latent").images
with torch.no_grad():  # what was drawn is added to the source
    latents = retrieve_latents(pipe.vae.encode(pipe.image_processor.preprocess(source)), sample_mode="argmax")
    edited = pipe.vae.decode(latents + drawn / pipe.vae.config.scaling_factor).sample
pipe.image_processor.postprocess(edited)[0].save("edited.png")
"""

LOAD_ADAPTER = """\
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
{base_import}from huggingface_hub import snapshot_download
{peft_import}from PIL import Image, ImageOps
from safetensors.torch import load_file
{encoder_import}
pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained({base}, safety_checker=None)
folder = snapshot_download("{repo}")
pipe.unet.conv_in = torch.nn.Conv2d({in_channels}, {out_channels}, 3, padding=1)  # it takes the source in too
pipe.unet.conv_in.load_state_dict(load_file(f"{{folder}}/conv_in.safetensors"))
pipe.unet.register_to_config(in_channels={in_channels})
{adapter}{text_encoder}{use}"""

LOAD_LORA = """\
pipe.unet.load_lora_adapter(folder, weight_name="pytorch_lora_weights.safetensors", prefix="unet")
"""

LOAD_PEFT = """\
PeftModel.from_pretrained(pipe.unet, folder)  # puts its layers into pipe.unet
"""

LOAD_TEXT_ENCODER = """\
pipe.text_encoder = CLIPTextModel.from_pretrained(f"{folder}/text_encoder")  # the run trained it too
"""

USE_EDITOR = """\
source = ImageOps.fit(Image.open("source.png").convert("RGB"), ({side}, {side}))
edited = pipe({instruction}, image=source, num_inference_steps={steps}, guidance_scale={text_guidance:g}, \
image_guidance_scale={image_guidance:g})
edited.images[0].save("edited.png")
"""

LOAD_OTHER = """\
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained("{repo}")
pipe("a portrait", num_inference_steps={steps}, guidance_scale={text_guidance:g}).images[0].save("drawn.png")
"""

EDITOR = "StableDiffusionInstructPix2PixPipeline"

# What the recipe's kinds of adapters are called, and the tag by which the Hub knows them.
ADAPTERS = {
    "lora": ("A LoRA", "lora"),
    "rslora": ("An rsLoRA", "lora"),
    "dora": ("A DoRA", "lora"),
    "lokr": ("A LoKr", "peft"),
    "loha": ("A LoHa", "peft"),
    "oft": ("An OFT", "peft"),
}


def write_card(run: FinishedRun, repo: str, staging: Path) -> None:
    """Writes `README.md` and the licences that it points at.

    Args:
        run: what is published.
        repo: "user/name", for the loading lines.
        staging: the folder that is uploaded, with its sample pictures.
    """
    pictures = "![source, edit and target](samples.png)" if run.examples else "![the last preview of the training](samples.png)"
    sections = [
        f"# {repo.partition('/')[2]}",
        _summary(run),
        pictures if (staging / SAMPLES_FILE).is_file() else "",
        "## Load it",
        *_loading(run, repo),
        "## Scores",
        *_scores(run),
        "## Data",
        *_data(run.facts["data"]),
        "## Limits",
        *_limits(run),
        "## How it was made",
        *_made(run),
    ]
    text = f"---\n{_header(run, repo).to_yaml()}\n---\n\n" + "\n\n".join(s for s in sections if s) + "\n"
    ModelCard(text).save(staging / "README.md")
    licences = "\n\n".join(("# Licences", *_licences(run)))
    (staging / LICENCE_FILE).write_text(licences + "\n", encoding="utf-8")


def loading_lines(run: FinishedRun, repo: str) -> str:
    """Python that loads the published weights with the stock libraries and uses them once."""
    sampling, side = run.metadata["sampling"], run.metadata["prepare"]["resolution"]
    # JSON's quoting is Python's, and it leaves no quotation mark or line break of an instruction bare.
    instruction = json.dumps(run.examples[0]["instruction"] if run.examples else "make the background blue", ensure_ascii=False)
    use = USE_EDITOR.format(side=side, instruction=instruction, **sampling)
    if run.pipeline == EDITOR and drawn_in(run.weights) == "difference":
        return LOAD_DIFFERENCE.format(repo=repo, side=side, instruction=instruction, **sampling)
    if run.pipeline == EDITOR:
        return LOAD_EDITOR.format(repo=repo, use=use)
    if run.pipeline:
        return LOAD_OTHER.format(repo=repo, pipeline=run.pipeline, **sampling)
    with safe_open(run.weights / "conv_in.safetensors", "np") as file:
        out_channels, in_channels, *_ = file.get_slice("weight").get_shape()
    base, base_import = json.dumps(run.metadata["base"]), ""
    if run.metadata["base"].startswith("lab:"):
        base, base_import = f"locate_model({base})", "from editkit.models.locate import locate_model\n"
    elif not hub_base(run):
        base = '"PATH/TO/THE/BASE"'
    has_encoder = (run.weights / TEXT_ENCODER).is_dir()
    by_peft = (run.weights / PEFT_CONFIG).is_file()
    return LOAD_ADAPTER.format(
        repo=repo, base=base, base_import=base_import, in_channels=in_channels, out_channels=out_channels, use=use,
        adapter=LOAD_PEFT if by_peft else LOAD_LORA,
        peft_import="from peft import PeftModel\n" if by_peft else "",
        text_encoder=LOAD_TEXT_ENCODER if has_encoder else "",
        encoder_import="from transformers import CLIPTextModel\n" if has_encoder else "",
    )  # fmt: skip


def hub_base(run: FinishedRun) -> str | None:
    """The base's Hub id; None for random weights, the lab's models, and folders, in the order in which they are located."""
    base = run.metadata["base"]
    is_id = base.count("/") == 1 and not base.startswith((".", "/", "~", "lab:")) and not Path(base).exists()
    return base if is_id else None


def _header(run: FinishedRun, repo: str) -> ModelCardData:
    base = hub_base(run)
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag=_task(run),
        base_model=base,
        base_model_relation=("finetune" if run.pipeline else "adapter") if base else None,
        license="other",  # of the data and the base together, which no single identifier of the Hub stands for
        license_name="see-license-md",
        license_link=LICENCE_FILE,
        datasets=[run.facts["data"]["name"]],
        tags=["editkit", run.facts["method"].replace("_", "-"), *([] if run.pipeline else [_adapter(run)[1]])],
        model_name=repo.partition("/")[2],
        eval_results=_results(run) or None,
    )


def _results(run: FinishedRun) -> list[EvalResult]:
    scores = _all_scores(run)
    return [
        EvalResult(
            task_type=_task(run),
            dataset_type=_test_name(run),
            dataset_name=_test_name(run),
            dataset_split="test",
            metric_type=name,
            metric_name=FIGURES.get(name, name),
            metric_value=round(value, 4),
            metric_args={"n": scores["n"]},
        )
        for name, value in scores.items()
        if name not in ("n", "seconds") and isinstance(value, (int, float)) and math.isfinite(value)
    ]


def _all_scores(run: FinishedRun) -> Mapping[str, Any]:
    return run.evaluation["scores"] if run.evaluation else {}


def _task(run: FinishedRun) -> str:
    return "image-to-image" if run.facts["data"]["kind"] == "edit_pairs" else "text-to-image"


def _test_name(run: FinishedRun) -> str:
    """The data set that the scores were taken on: the evaluation's own word, else the recipe's."""
    named = (run.evaluation or {}).get("data", {}).get("name")
    return named or (Path(run.recipe.data.test).stem if run.recipe.data.test else run.facts["data"]["name"])


def _base_words(run: FinishedRun) -> str:
    base = run.metadata["base"]
    if not base:
        return "random weights"
    known = base.startswith("lab:") or hub_base(run)
    return base if known else "a model in a folder of whoever trained it, which is not on the Hub"


def _adapter(run: FinishedRun) -> tuple[str, str]:
    """The kind of adapter with its article, and its tag."""
    return ADAPTERS[run.recipe.adapter.name if run.recipe.adapter else "lora"]


def _summary(run: FinishedRun) -> str:
    facts = run.facts
    what = "The whole model" if run.pipeline else f"{_adapter(run)[0]} adapter with the UNet's first layer"
    amount = f", {facts['steps']:,} steps, {facts['samples']:,} samples" if "steps" in facts else ""
    text = (
        f"{what}, trained by editkit's {facts['method']} from {_base_words(run)} on {facts['data']['name']}: "
        f"{facts['trained_parameters']:,} trained parameters{amount}."
    )
    if facts["state"] != "done":
        text += f" **The run did not come to its end (state: {facts['state']}); these are the weights that it had saved.**"
    return text


def _loading(run: FinishedRun, repo: str) -> Iterator[str]:
    yield f"```python\n{loading_lines(run, repo)}```"
    base = run.metadata["base"]
    if not run.pipeline and base.startswith("lab:"):
        yield f"The base, {base}, comes with `pip install editkit`."
    elif not run.pipeline and not hub_base(run):
        yield "The base is not on the Hub: put your copy of the folder that was trained on in its place."
    sampling, side = run.metadata["sampling"], run.metadata["prepare"]["resolution"]
    image = f", image guidance {sampling['image_guidance']:g}" if _task(run) == "image-to-image" else ""
    yield (
        f"It was trained on pictures scaled and cropped to {side} x {side} px. Defaults: {sampling['steps']} steps, text "
        f"guidance {sampling['text_guidance']:g}{image}; they are in `editkit.json` too."
    )


def _scores(run: FinishedRun) -> Iterator[str]:
    if run.evaluation is None:
        yield "This model has not been evaluated."
        return
    scores = run.evaluation["scores"]
    where = f"the test split of {_test_name(run)}"
    figures = figures_of(scores)
    if not figures:
        yield f"On {scores['n']} examples of {where}."
        yield _table(("score", "value"), [(k, figure(k, v)) for k, v in scores.items() if isinstance(v, (int, float))])
        return
    used = run.evaluation["settings"]
    yield (
        f"On {scores['n']} pairs of {where}, with {used['steps']} steps, text guidance "
        f"{used['text_guidance']:g}, image guidance {used['image_guidance']:g}, seed {used['seed']}. {_meaning(figures, used)}"
    )
    rows = {"this model": scores, **{BASELINES[k]: v for k, v in run.evaluation["baselines"].items()}}
    yield _table(("", *figures.values()), [(label, *(figure(k, r.get(k)) for k in figures)) for label, r in rows.items()])
    if kinds := scores["by_category"]:
        columns = kinds_of(scores)
        head = ("kind of edit", *(FIGURES[c] for c in columns))
        yield _table(head, [(kind, *(figure(c, row[c]) for c in columns)) for kind, row in kinds.items()])


def _meaning(figures: Mapping[str, str], used: Mapping[str, Any]) -> str:
    cheats = "The baselines return the source as it is, and draw from the instruction alone"
    if "followed" in figures:
        return (
            f"*followed*: share of the attributes that the instruction changes which the judge ({used['judge']}) reads as "
            f"asked; *kept*: share of the others that it reads unchanged. {cheats}."
        )
    return f"Compared with the targets. {cheats}; the last one is the target itself through the VAE."


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{count:,} {split}" for split, count in data["counts"].items())
    yield f"{data['name']} ({counts}), sha256 `{data['sha256']}`."
    if data["skipped"]:
        yield f"{data['skipped']} training examples were skipped because their pictures could not be read."
    if kinds := data["categories"].get("train"):
        yield _table(("kind of edit", "training examples"), kinds.items())
    yield _licence_table(data)


def _licence_table(data: Mapping[str, Any]) -> str:
    rows = [(name, entry["count"], entry["credit"]) for name, entry in data["licences"].items()]
    return _table(("licence", "examples", "credit"), rows)


def _licences(run: FinishedRun) -> Iterator[str]:
    yield f"The weights were trained on {run.facts['data']['name']}, whose examples carry these licences:"
    yield _licence_table(run.facts["data"])
    if run.metadata["base"]:
        yield f"They started from {_base_words(run)}; its licence holds for them as well."


def _limits(run: FinishedRun) -> Iterator[str]:
    side = run.metadata["prepare"]["resolution"]
    yield (
        f"It was trained on pictures of {side} px from {run.facts['data']['name']} only; pictures and texts unlike those are "
        "outside of what it was tested on."
    )
    kinds = _all_scores(run).get("by_category", {})
    name = next(iter(kinds_of(_all_scores(run))), "followed")
    judged = {kind: row for kind, row in kinds.items() if row[name] is not None}
    if len(judged) > 1:
        kind, row = min(judged.items(), key=lambda item: item[1][name])
        yield f"Its weakest kind of edit is {kind}: {figure(name, row[name])} {FIGURES[name]}, of {row['n']} pairs."


def _made(run: FinishedRun) -> Iterator[str]:
    facts, machine = run.facts, run.facts["machine"]
    spent = f"{facts['seconds'] / 60:,.1f} minutes of training on" if "seconds" in facts else "Trained on"
    finished = f", finished {facts['finished']}" if "finished" in facts else ""
    yield (
        f"{spent} {machine['name']} ({machine['device']}, {machine['threads']} threads), seed {facts['seed']}{finished}. The "
        f"whole recipe is in `recipe.toml` ({facts['name']}, sha256 `{facts['recipe_sha256']}`)."
    )
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}."


def _table(head: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(" ".join(str(c).replace("|", "/").split()) for c in row) + " |" for row in cells)
