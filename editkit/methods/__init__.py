"""What is trained: from examples to a loss. The registry names each method by a dotted path that is imported when asked for."""

from __future__ import annotations

import importlib
from typing import Any

from editkit.errors import UserError
from editkit.imports import quick_imports

METHODS = {
    "autoencoder": "editkit.methods.autoencoder:Autoencoder",
    "text_to_image": "editkit.methods.text_to_image:TextToImage",
    "instruct_edit": "editkit.methods.instruct_edit:InstructEdit",
    "attribute_reader": "editkit.methods.attribute_reader:AttributeReading",
    "scene_reader": "editkit.methods.scene_reader:SceneReading",
    "contrastive": "editkit.methods.contrastive:Contrastive",
    "describe_difference": "editkit.methods.describe_difference:DescribeDifference",
    "unified": "editkit.methods.unified:Unified",
    "plan_refine": "editkit.methods.plan_refine:PlanRefine",
}


def method_class(name: str) -> Any:
    """The class of a method (see `editkit.methods.protocol.Method`)."""
    if name not in METHODS:
        raise UserError(f'[method] name: found "{name}"; expected one of {", ".join(sorted(METHODS))}')
    module, _, attribute = METHODS[name].partition(":")
    with quick_imports():
        return getattr(importlib.import_module(module), attribute)
