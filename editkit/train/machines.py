"""How fast machines compute and how much memory they have: this one by a short probe, named ones by their makers' figures."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from editkit.errors import UserError
from editkit.models.precision import IMITATED_BF16, has_bf16

PROBE_SIDE = 512  # of the matrices
PROBE_SECONDS = 0.1  # for each kind of number
PROBE_BYTES = 2**26
PUBLISHED_EFFICIENCY = 0.4  # share of a published peak that whole training steps of large networks reach; an assumption
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """One device.

    Attributes:
        name: for people.
        device: "cpu", "cuda" or "mps".
        memory: bytes of one device.
        flops: type of the numbers -> FLOP/s that matrix products of a training step reach.
        bandwidth: bytes/s.
        overhead: seconds an operation costs beyond its arithmetic.
        source: where the figures come from.
    """

    name: str
    device: str
    memory: int
    flops: dict[str, float]
    bandwidth: float
    overhead: float
    source: str


def _published(
    name: str, gib: float, fp32_tflops: float, half_tflops: float, gb_per_s: float, source: str, device: str = "cuda"
) -> Machine:
    """`fp32_tflops` without TF32, which editkit does not switch on; `half_tflops` dense, with sums in fp32."""
    half = half_tflops * 1e12 * PUBLISHED_EFFICIENCY
    flops = {"float32": fp32_tflops * 1e12 * PUBLISHED_EFFICIENCY, "bfloat16": half, "float16": half}
    said = f"not measured here: {source}, of which {PUBLISHED_EFFICIENCY:.0%} are assumed"
    return Machine(name, device, int(gib * GIB), flops, gb_per_s * 1e9, 10e-6, said)


NAMED = {
    m.name: m
    for m in (
        _published("H100 80 GB", 80, 67, 989, 3350, "NVIDIA H100 SXM data sheet"),
        _published("A100 80 GB", 80, 19.5, 312, 2039, "NVIDIA A100 SXM data sheet"),
        _published("RTX 4090 24 GB", 24, 82.6, 165.2, 1008, "NVIDIA Ada architecture white paper, table 2"),
        _published("RTX 3090 24 GB", 24, 35.6, 71, 936, "NVIDIA Ampere GA102 white paper, appendix A"),
        _published("L4 24 GB", 24, 30.3, 121, 300, "NVIDIA L4 data sheet"),
    )
}


def machine_named(name: str) -> Machine:
    """A machine of the table.

    Raises:
        UserError: it is not there.
    """
    if name not in NAMED:
        raise UserError(f'machine: found "{name}"; expected one of {", ".join(NAMED)}')
    return NAMED[name]


def this_machine(device: torch.device) -> Machine:
    """The device that training would use here; takes less than half a second and draws no random numbers."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        name, memory = facts.name, facts.total_memory
    else:
        name, memory = f"this {device.type}, {torch.get_num_threads()} threads", _main_memory()
    flops = {"float32": _products(device, torch.float32)}
    # imitated, bf16 is too slow to be measured in so short a time
    flops["bfloat16"] = _products(device, torch.bfloat16) if has_bf16(device) else flops["float32"] / IMITATED_BF16
    flops["float16"] = flops["bfloat16"]
    return Machine(name, device.type, memory, flops, _copies(device), _small(device), "measured by a probe")


def _main_memory() -> int:
    """Of the machine, or what the container is allowed of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    said = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return min(whole, int(said)) if said.isdigit() else whole


def _rate(action: object, device: torch.device, amount: float) -> float:
    """`amount` a second, the best of the rounds in the time of a probe."""
    call = action if callable(action) else lambda: None
    call()
    best = 0.0
    end = time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = max(best, amount / (time.perf_counter() - started))
    return best


def _products(device: torch.device, dtype: torch.dtype) -> float:
    a = torch.ones(PROBE_SIDE, PROBE_SIDE, dtype=dtype, device=device)
    return _rate(lambda: a @ a, device, 2.0 * PROBE_SIDE**3)


def _copies(device: torch.device) -> float:
    a = torch.zeros(PROBE_BYTES, dtype=torch.uint8, device=device)
    b = torch.zeros_like(a)
    return _rate(lambda: b.copy_(a), device, 2.0 * PROBE_BYTES)


def _small(device: torch.device) -> float:
    a = torch.ones(8, device=device)
    return 1 / _rate(lambda: [a.add_(0.0) for _ in range(100)], device, 100.0)
