"""editkit: from pictures to an image-editing model that works."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

# Imported when asked for, so that `import editkit` loads no torch.
_PUBLIC = {
    "load_recipe": "editkit.recipe.load:load_recipe",
    "train": "editkit.train.run:train",
    "load_editor": "editkit.models.editor:load_editor",
    "evaluate": "editkit.evaluate.run:evaluate",
    "publish": "editkit.publish.hub:publish",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'editkit' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
