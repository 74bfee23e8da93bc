"""Parked and offloaded weights: out of the process's own memory, and the same numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from editkit.models.offload import park, unparked
from editkit.recipe.schema import Adapter
from tests.models.test_precision import CPU, gradients, made

MEASURE = """
import torch
from editkit.models.offload import park
from editkit.train.memory import private_bytes
network = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048, bias=False) for _ in range(8))).requires_grad_(False)
x = torch.randn(1, 2048)
expected = network(x)
before = private_bytes()
park(network)
after = private_bytes()
found = network(x)
print(before - after, private_bytes() - after, sum(p.nbytes for p in network.parameters()))
torch.testing.assert_close(found, expected)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells private from mapped memory")
def test_parked_weights_leave_the_private_memory(workplace: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    freed, taken_again, size = map(int, done.stdout.split())
    assert size == 8 * 2048**2 * 4
    assert freed > 0.8 * size  # the allocator keeps about one matrix
    assert taken_again < 0.05 * size, "computing with them reads the file and copies nothing"


def test_only_frozen_weights_are_parked_and_equal_ones_share_a_file(workplace: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[0].requires_grad_(False)
    kept, before = network[1].weight.data_ptr(), network[0].weight.clone()
    park(network)
    park(network)
    assert network[1].weight.data_ptr() == kept
    assert torch.equal(network[0].weight, before)
    assert len(list((workplace / "cache").iterdir())) == 1
    with unparked(network, CPU):
        assert torch.equal(network[0].weight, before)


def test_unparked_weights_go_back_to_the_file(workplace: Path) -> None:
    network = nn.Linear(4, 4).requires_grad_(False)
    park(network)
    mapped = network.weight.data_ptr()
    with unparked(network, torch.device("meta")):
        assert network.weight.is_meta
    assert network.weight.data_ptr() == mapped


@pytest.mark.parametrize("checkpointed", [False, True])
def test_an_offloaded_base_gives_the_same_gradient(tiny_sd: Path, workplace: Path, checkpointed: bool) -> None:
    adapter = Adapter(rank=4, alpha=4)
    expected = gradients(made(tiny_sd, adapter)[0])
    method, parts = made(tiny_sd, adapter, offload="base", gradient_checkpointing=checkpointed)
    frozen = [p for n, p in parts.unet.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(p.is_meta for p in frozen), "nothing is held between the passes"
    found = gradients(method)
    assert all(p.is_meta for n, p in parts.unet.named_parameters() if not p.requires_grad)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
