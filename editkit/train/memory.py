"""Memory of this process: its peak, of the accelerator where there is one, else what is resident; and how it is kept."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # man 3 mallopt
KEPT_BYTES = 2**30  # a tensor of more is still mapped by itself and given back


def keep_freed_memory() -> None:
    """Lets the C library keep what a step frees for the next one, instead of giving it to the system and asking again.

    A step makes and frees hundreds of large tensors of the same sizes; fresh pages have to be zeroed by the kernel every time.
    `python -m tests.bench.speed` measures the difference. Nothing happens where the C library is not glibc.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Gives the system what is kept, between two kinds of work that ask for other sizes; nothing where there is no glibc."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak(device: torch.device) -> bool:
    """Starts the measuring anew, so that the peak of a phase can be read.

    Returns:
        False where the platform keeps one peak for the life of the process (the CPU outside Linux).
    """
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR.write_text("5", encoding="ascii")  # 5 = the resident peak (man 5 proc)
    except OSError:
        return False
    return True


def peak_bytes(device: torch.device) -> int:
    """The most memory since the process began or `reset_peak` last worked: allocated by torch, or resident."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    if STATUS.is_file():  # getrusage does not know of the reset
        return _status("VmHWM")
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def private_bytes() -> int:
    """Main memory that the system cannot take back, without mapped files; 0 where the platform does not say (outside Linux)."""
    return _status("RssAnon") if STATUS.is_file() else 0


def _status(field: str) -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0
