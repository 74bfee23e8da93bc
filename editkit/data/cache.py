"""What the frozen networks say of every picture, computed once and kept on disk by content.

The key is a hash over the data set's bytes, the prepare parameters, the encoder and this code's version: when any of them
changes, nothing of the old cache is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

VERSION = 1


def cache_root() -> Path:
    """`$EDITKIT_CACHE`, or `editkit` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EDITKIT_CACHE") or Path(home) / "editkit")


def cache_key(**parts: Any) -> str:
    """A hash of everything that the cached tensors depend on."""
    return hashlib.sha256(json.dumps({"version": VERSION, **parts}, sort_keys=True).encode()).hexdigest()[:32]


def weights_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of a network's weights."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def cached(key: str, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors under `key`, computed and stored when they are not there; a torn file is computed again."""
    path = cache_root() / f"{key}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except Exception as error:  # safetensors raises its own error class, which has no stable name
            print(f"{path}: cannot be read ({error}); computed again")
    tensors = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(f".{os.getpid()}.staging")
    save_file({k: v.contiguous() for k, v in tensors.items()}, staging)
    os.replace(staging, path)
    return tensors
