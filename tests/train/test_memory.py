"""The peak of a phase."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from editkit.train.memory import peak_bytes, private_bytes, reset_peak

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can measure a phase")
def test_the_peak_is_that_of_the_phase() -> None:
    def take(mib: int) -> mmap.mmap:  # from the system; a tensor may come from what this process freed before
        taken = mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for _ in range(mib):
            taken.write(bytes(MIB))
        return taken

    take(64).close()
    assert reset_peak(CPU)
    start, own = peak_bytes(CPU), private_bytes()
    held = take(32)
    assert peak_bytes(CPU) - start == pytest.approx(32 * MIB, abs=4 * MIB)
    assert private_bytes() - own == pytest.approx(32 * MIB, abs=4 * MIB)
    held.close()
    assert private_bytes() - own < 4 * MIB
    assert peak_bytes(CPU) - start == pytest.approx(32 * MIB, abs=4 * MIB), "a peak stays"
    assert reset_peak(CPU)
    assert peak_bytes(CPU) - start < 4 * MIB
