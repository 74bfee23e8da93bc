"""The card of a published model: what was trained, on what, how well it does, and how to load it. Only what the run knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL import Image
from safetensors import safe_open

from editkit.evaluate.pictures import triptych
from editkit.evaluate.scores import BASELINES, FIGURES, figure
from editkit.models import METADATA

SAMPLES = 6

LOAD_MODEL = """\
from diffusers import StableDiffusionInstructPix2PixPipeline
from diffusers.utils import load_image
pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained("{repo}")
image = load_image("source.png").convert("RGB").resize(({side}, {side}))
edited = pipe("{instruction}", image=image, {settings}).images[0]
"""

LOAD_ADAPTER = """\
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from huggingface_hub import snapshot_download
from safetensors.torch import load_file

folder = snapshot_download("{repo}")
pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained("{base}", safety_checker=None)
pipe.unet.conv_in = torch.nn.Conv2d({in_channels}, {out_channels}, 3, padding=1)  # it takes the source in too
pipe.unet.conv_in.load_state_dict(load_file(f"{{folder}}/conv_in.safetensors"))
pipe.unet.register_to_config(in_channels={in_channels})
pipe.unet.load_lora_adapter(folder, weight_name="pytorch_lora_weights.safetensors", prefix="unet")
"""


def write_model_card(run: Path, repo: str, staging: Path) -> None:
    """Writes `README.md`, and `samples.png` where the run was evaluated.

    Args:
        run: the run folder.
        repo: "user/name", for the loading lines.
        staging: the folder that is uploaded.
    """
    facts = _read(run / "run.json")
    metadata = _read(staging / METADATA)
    evaluation = _read(run / "evaluation" / "scores.json") if (run / "evaluation" / "scores.json").is_file() else None
    has_samples = _write_samples(run, staging)
    header = _header(facts, evaluation, repo)
    sections = [
        f"# {repo.partition('/')[2]}",
        _summary(facts),
        "![source, edit and target of unseen test pairs](samples.png)" if has_samples else "",
        "## Load it",
        f"```python\n{loading_lines(run, repo, metadata)}```",
        _sampling(metadata),
        "## Scores",
        _scores(evaluation),
        "## Data",
        _data(facts["data"]),
        "## Limits",
        _limits(facts, metadata),
        "## How it was made",
        _made(facts),
    ]
    text = f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(s for s in sections if s) + "\n"
    ModelCard(text).save(staging / "README.md")


def loading_lines(run: Path, repo: str, metadata: Mapping[str, Any]) -> str:
    """Python that loads the published weights with the stock libraries."""
    sampling = metadata["sampling"]
    settings = (
        f"num_inference_steps={sampling['steps']}, guidance_scale={sampling['text_guidance']:g}, "
        f"image_guidance_scale={sampling['image_guidance']:g}"
    )
    if (run / "adapter").is_dir():
        with safe_open(run / "adapter" / "conv_in.safetensors", "np") as file:
            shape = file.get_slice("weight").get_shape()
        return LOAD_ADAPTER.format(repo=repo, base=metadata["base"], in_channels=shape[1], out_channels=shape[0])
    index = _read(run / "model" / "model_index.json")
    if index["_class_name"] != "StableDiffusionInstructPix2PixPipeline":
        return f'from diffusers import DiffusionPipeline\npipe = DiffusionPipeline.from_pretrained("{repo}")\n'
    side = metadata["prepare"]["resolution"]
    return LOAD_MODEL.format(repo=repo, side=side, settings=settings, instruction="make the hair red")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _header(facts: Mapping[str, Any], evaluation: Mapping[str, Any] | None, repo: str) -> ModelCardData:
    results = []
    if evaluation is not None:
        for name, value in evaluation["scores"].items():
            if name in FIGURES and name != "n" and isinstance(value, (int, float)):
                results.append(
                    EvalResult(
                        task_type="image-to-image",
                        dataset_type=facts["data"]["name"],
                        dataset_name=facts["data"]["name"],
                        metric_type=name,
                        metric_name=FIGURES[name],
                        metric_value=round(value, 4),
                    )
                )
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-image" if facts["data"]["kind"] == "edit_pairs" else "text-to-image",
        base_model=facts["base"] if facts["base"] and not facts["base"].startswith(("lab:", "/", ".")) else None,
        license="other",
        license_name="see-data-licences",
        tags=["editkit", facts["method"].replace("_", "-")],
        model_name=repo.partition("/")[2],
        eval_results=results or None,
    )


def _summary(facts: Mapping[str, Any]) -> str:
    base = f"on {facts['base']}" if facts["base"] else "from random weights"
    return (
        f"Trained with editkit: {facts['method'].replace('_', ' ')} {base}, {facts['trained_parameters']:,} trained "
        f"parameters, {facts['steps']:,} steps, {facts['samples']:,} samples of {facts['data']['name']}."
    )


def _sampling(metadata: Mapping[str, Any]) -> str:
    sampling = metadata["sampling"]
    side = metadata["prepare"]["resolution"]
    return (
        f"Pictures are scaled and cropped to {side} x {side} px. Defaults: {sampling['steps']} steps, text guidance "
        f"{sampling['text_guidance']:g}, image guidance {sampling['image_guidance']:g}."
    )


def _scores(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "This model has not been evaluated."
    scores = evaluation["scores"]
    if "followed" not in scores:
        return _table(("score", "value"), [(k, figure(k, v)) for k, v in scores.items() if not isinstance(v, Mapping)])
    rows = {"this model": scores, **{BASELINES[k]: v for k, v in evaluation["baselines"].items()}}
    table = _table(("", *FIGURES.values()), [(label, *(figure(k, r.get(k)) for k in FIGURES)) for label, r in rows.items()])
    return (
        f"On {scores['n']} unseen pairs. *followed*: share of the attributes that the instruction changes which the judge "
        f"({evaluation['settings']['judge']}) reads as asked; *kept*: share of the others unchanged. The two baselines return "
        f"the source, and draw from the instruction alone.\n\n{table}"
    )


def _data(data: Mapping[str, Any]) -> str:
    lines = [f"{data['name']}, sha256 `{data['sha256']}`, {data['counts'].get('train', 0):,} training examples."]
    if data["skipped"]:
        lines.append(f"{data['skipped']} were skipped because their pictures could not be read.")
    kinds = data["categories"].get("train", {})
    if kinds:
        lines.append(_table(("kind of edit", "examples"), list(kinds.items())))
    rows = [(name, entry["count"], entry["credit"]) for name, entry in data["licences"].items()]
    lines.append(_table(("licence", "examples", "credit"), rows))
    return "\n\n".join(lines)


def _limits(facts: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    side = metadata["prepare"]["resolution"]
    return (
        f"It was trained on pictures of {side} px from {facts['data']['name']} only; pictures and instructions unlike those "
        "are outside of what it was tested on."
    )


def _made(facts: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    return (
        f"{facts['seconds'] / 60:.1f} minutes of training on {machine['name']} ({machine['device']}, {machine['threads']} "
        f"threads), seed {facts['seed']}, finished {facts['finished']}. The whole recipe is in `recipe.toml`. "
        f"Versions: {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}."
    )


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    cells = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "/") for c in row) + " |" for row in cells)


def _write_samples(run: Path, staging: Path) -> bool:
    """The first cases of the evaluation, chosen by nothing but their order; else the last preview."""
    examples = run / "evaluation" / "examples.jsonl"
    if examples.is_file():
        lines = [json.loads(s) for s in examples.read_text(encoding="utf-8").splitlines()[:SAMPLES]]
        rows = []
        for line in lines:
            source, edit, target = (Image.open(run / "evaluation" / line[r]) for r in ("source", "edit", "target"))
            rows.append((source, edit, target, line["instruction"]))
        triptych(rows, scale=max(1, 128 // rows[0][0].width)).save(staging / "samples.png")
        return True
    previews = sorted(p for p in (run / "previews").glob("step-*.png") if not p.stem.endswith("-grid"))
    if previews:
        shutil.copy(previews[-1], staging / "samples.png")
    return bool(previews)
