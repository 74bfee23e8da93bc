"""Families of networks. The registry names each by a dotted path that is imported when asked for."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from editkit.errors import UserError
from editkit.imports import quick_imports

METADATA = "editkit.json"  # beside exported weights: how pictures are prepared and what guidance is the default

# It says of every image processor that torchvision is absent; editkit's go through Pillow, with or without it.
logging.getLogger("transformers.utils.import_utils").setLevel(logging.ERROR)

FAMILIES = {
    "stable_diffusion": "editkit.models.stable_diffusion.load",
    "attribute_reader": "editkit.models.attribute_reader.load",
    "scene_reader": "editkit.models.scene_reader.load",
    "clip": "editkit.models.clip.load",
    "difference_captioner": "editkit.models.difference_captioner.load",
    "bagel": "editkit.models.bagel.load",
}


def family(name: str) -> Any:
    """The module of a family: it has `Options` and `load` (see `editkit.models.protocol`)."""
    if name not in FAMILIES:
        raise UserError(f'[model] family: found "{name}"; expected one of {", ".join(sorted(FAMILIES))}')
    with quick_imports():
        return importlib.import_module(FAMILIES[name])
