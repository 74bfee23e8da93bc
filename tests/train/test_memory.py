"""The peak of a phase."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editkit.train.memory import peak_bytes, private_bytes, reset_peak

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can measure a phase")
def test_the_peak_is_that_of_the_phase() -> None:
    torch.ones(64 * MIB, dtype=torch.uint8)
    assert reset_peak(CPU)
    start = peak_bytes(CPU)
    held = torch.ones(32 * MIB, dtype=torch.uint8)
    assert peak_bytes(CPU) - start == pytest.approx(32 * MIB, abs=4 * MIB)
    own = private_bytes()
    del held
    assert own - private_bytes() == pytest.approx(32 * MIB, abs=4 * MIB)
    assert peak_bytes(CPU) - start == pytest.approx(32 * MIB, abs=4 * MIB), "a peak stays"
    assert reset_peak(CPU)
    assert peak_bytes(CPU) - start < 4 * MIB
