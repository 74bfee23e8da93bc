"""A state on the disk: its tensors through `torch.distributed.checkpoint` (DCP), the rest as JSON.

DCP pickles whatever is no tensor, and its index too. Here the rest is JSON, which keeps every float as it is, and the index
is read without running what a stranger may have put into it.
"""

from __future__ import annotations

import contextlib
import pickle
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from editkit.train.ranks import world

Allocate = Callable[[tuple[str, ...], str, Sequence[int] | None], torch.Tensor]

METADATA = ".metadata"  # the name is the library's

# What the pickled index of `torch.distributed.checkpoint` is made of, besides dtypes.
INDEX = {
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
}  # fmt: skip


def pack(value: Any, path: tuple[str, ...], tensors: dict[str, torch.Tensor]) -> Any:
    """The value as JSON, with a reference in the place of each tensor.

    Args:
        value: mappings, lists and tuples of tensors, numbers, texts, booleans and None.
        path: where the value stands in the state.
        tensors: gets the tensors, by their key.

    Raises:
        ValueError: something else is in it.
    """
    if isinstance(value, torch.Tensor):
        key = "/".join(path)
        if key in tensors:
            raise ValueError(f"{key}: two tensors of a state have this path")
        tensors[key] = value.detach()
        # A fused optimiser walks through a weight and its moments as they lie in memory, so that the order must come back.
        order = list(torch.empty_like(value, device="meta").stride()) if not isinstance(value, DTensor) else []
        return {"$tensor": key} if not order or value.is_contiguous() else {"$tensor": key, "strides": order}
    if isinstance(value, Mapping):
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return {k: pack(v, (*path, k), tensors) for k, v in value.items()}
        return {"$items": [[k, pack(v, (*path, str(k)), tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        packed = [pack(v, (*path, str(i)), tensors) for i, v in enumerate(value)]
        return {"$tuple": packed} if isinstance(value, tuple) else packed
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{'/'.join(path)}: a {type(value).__name__} cannot be part of a checkpoint")


def unpack(value: Any, path: tuple[str, ...], allocate: Allocate) -> Any:
    """The inverse of `pack`; `allocate` gives the tensor of a path, a key and, where it did not lie in order, its strides."""
    if isinstance(value, list):
        return [unpack(v, (*path, str(i)), allocate) for i, v in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return allocate(path, value["$tensor"], value.get("strides"))
    if "$tuple" in value:
        return tuple(unpack(value["$tuple"], path, allocate))
    if "$items" in value:
        return {k: unpack(v, (*path, str(k)), allocate) for k, v in value["$items"]}
    return {k: unpack(v, (*path, k), allocate) for k, v in value.items()}


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes the shards of this process and, on rank 0, the index; all processes call it together.

    Raises:
        OSError: the disk refused, in any process.
    """
    # The files are flushed afterwards, while they are hashed. More threads would hide the errors of all but the first.
    with _plainly():
        dcp.save(tensors, storage_writer=_Writer(folder, sync_files=False, thread_count=1))


def stored_tensors(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Key -> full shape (`size`) and dtype (`properties.dtype`) of the tensors in a folder."""
    known = _Reader(folder).read_metadata().state_dict_metadata
    return {key: stored for key, stored in known.items() if isinstance(stored, TensorStorageMetadata)}


def read_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fills `tensors` in place, each with its own shard of what the folder holds; all processes call it together."""
    with _plainly():
        dcp.load(tensors, storage_reader=_Reader(folder))


class _Writer(dcp.FileSystemWriter):
    """Lets a disk's own error through, which PyTorch's serialisation buries under one about its archive."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
            raise OSError(cause.errno, cause.strerror) from error


class _Reader(dcp.FileSystemReader):
    """Reads the pickled index without running what a stranger may have put into it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _Unpickler(file).load()
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _Unpickler(pickle.Unpickler):
    """Knows the classes of an index of tensors, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "pathlib":
            return PurePosixPath  # where it was written, of no use here; the writer's system may have other paths
        known = name in INDEX.get(module, ()) or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype))
        if not known:
            raise ValueError(f"{METADATA}: found {module}.{name}, which no checkpoint holds")
        return super().find_class(module, name)


@contextlib.contextmanager
def _plainly() -> Generator[None, None, None]:
    """Ordinary errors instead of the one that `torch.distributed.checkpoint` collects, and no warning about one process."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        if isinstance(cause, OSError):
            raise cause from error
        raise RuntimeError(f"process {rank} of {world()[1]}: {type(cause).__name__}: {cause}") from error
