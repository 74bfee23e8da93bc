"""What this machine has, and what each missing extra costs: `editkit env`."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.table import Table

PACKAGES = (
    "editkit", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "datasets", "pydantic", "pillow",
    "numpy", "huggingface_hub", "dicebear-styles", "resvg-py",
)  # fmt: skip
# extra -> (module, what its absence costs)
EXTRAS = {
    "gradio": ("gradio", '"editkit demo" does not start; pip install "editkit[demo]"'),
    "playwright": ("playwright", "the page tests are skipped; for those who work on editkit"),
    "xformers": ("xformers", "nothing on the CPU; on older GPUs attention takes more memory than it needs"),
    "bitsandbytes": (
        "bitsandbytes",
        "no 8-bit optimiser and no 4-bit base: about 3 GB more for a 1 B-parameter fine-tune",
    ),
    "prodigyopt": ("prodigyopt", 'optim.name = "prodigy" is refused; pip install "editkit[optimizers]"'),
    "schedulefree": ("schedulefree", 'optim.name = "schedule_free" is refused; pip install "editkit[optimizers]"'),
    "tensorboard": ("tensorboard", 'tracking.to = ["tensorboard"] is refused; pip install "editkit[tracking]"'),
    "trackio": ("trackio", 'tracking.to = ["trackio"] is refused; pip install "editkit[tracking]"'),
    "wandb": ("wandb", 'tracking.to = ["wandb"] is refused; pip install "editkit[wandb]"'),
    "flash-attn": ("flash_attn", "nothing on the CPU; on GPUs torch's own flash kernel is used instead"),
}


def describe() -> dict[str, Any]:
    """Versions, devices, attention back ends and missing extras."""
    import torch
    from diffusers.models.attention_dispatch import AttentionBackendName

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    missing = {name: cost for name, (module, cost) in EXTRAS.items() if importlib.util.find_spec(module) is None}
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
