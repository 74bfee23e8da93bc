"""What training does to any family's network: adapters, fewer bits, gradients computed again, shards; and that it learns."""

from __future__ import annotations

import copy
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from editkit.models.adapters import LORA_FILE, adapter_parameters, add_adapter
from editkit.models.bagel.config import bagel_tiny
from editkit.models.bagel.loss import sample_losses
from editkit.models.bagel.network import ADAPTER_TARGETS, Bagel
from editkit.models.bagel.packing import Packed, pack
from editkit.models.bagel.parts import CleanImage, NoisedImage, SeenImage
from editkit.models.bagel.session import Drawing, Session
from editkit.models.networks import trained_networks
from editkit.models.precision import checkpoint_gradients, computing
from editkit.models.quantize import quantize_base
from editkit.recipe.schema import Adapter
from editkit.train.parallel import blocks_of
from tests.models.bagel.small import SIZES, TOKENS, direct, image, small_bagel, text, trace

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CPU = torch.device("cpu")
ALL = pack([[trace(10)], [direct(3)]], TOKENS, SIZES)
WORDS = pack([[[text(1, 5, learn=True)]]], TOKENS, SIZES)


def loss(network: Bagel, packed: Packed = ALL) -> torch.Tensor:
    return sample_losses(network(packed), packed).over_tokens()


def gradients(network: Bagel, packed: Packed = ALL) -> dict[str, torch.Tensor]:
    network.zero_grad()
    loss(network, packed).backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def adapted(seed: int | None = None) -> Bagel:
    network = small_bagel()
    add_adapter(network, Adapter(rank=4, alpha=8), ADAPTER_TARGETS)
    if seed is not None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter_parameters(network):
                parameter.normal_(std=0.1)
    return network


def test_an_adapter_changes_nothing_at_first_and_stands_beside_both_experts() -> None:
    network = adapted()
    torch.testing.assert_close(loss(network), loss(small_bagel()))
    trained = [n for n, p in network.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * SIZES.decoder.layers * len(ADAPTER_TARGETS)
    assert set(gradients(network)) == set(trained)
    assert trained_networks(torch.nn.ModuleDict({"network": network})) == [network]


def test_an_adapter_goes_to_disk_and_comes_back(tmp_path: Path) -> None:
    network = adapted(seed=1)
    network.save_lora_adapter(tmp_path, weight_name=LORA_FILE)
    again = small_bagel()
    plain = loss(again)
    again.load_lora_adapter(tmp_path, weight_name=LORA_FILE, prefix=None)
    torch.testing.assert_close(loss(again), loss(network))
    assert (plain - loss(again)).abs() > 1e-3


@pytest.mark.parametrize("kind", ["bf16", "nf4"])
def test_an_adapter_learns_beside_a_base_in_fewer_bits(kind: str) -> None:
    if kind == "nf4":
        pytest.importorskip("bitsandbytes")
    network = small_bagel()
    exact = loss(network).detach()
    quantize_base(network, kind, compute=torch.bfloat16)
    add_adapter(network, Adapter(rank=4, alpha=4), ADAPTER_TARGETS)
    with computing(CPU, "bf16"):
        torch.testing.assert_close(loss(network), exact, atol=0.3, rtol=0.1)
        for packed in (ALL, WORDS):  # the second leaves the generation expert without a token
            found = gradients(network, packed)
            assert found
            assert all(g.isfinite().all() for g in found.values())
    network.eval()
    with torch.no_grad(), computing(CPU, "bf16"):
        network(WORDS)


def test_gradients_computed_again_are_the_same() -> None:
    network = small_bagel().train()
    with computing(CPU, "fp32"):  # the second pass enters the same kernel
        kept = gradients(network)
    checkpoint_gradients(network, CPU)
    entered = []
    again = network._gradient_checkpointing_func
    network._gradient_checkpointing_func = lambda *a: (entered.append(1), again(*a))[1]
    with computing(CPU, "fp32"):
        recomputed = gradients(network)
    assert len(entered) == SIZES.decoder.layers
    assert kept.keys() == recomputed.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient, **CLOSE)


def test_numbers_of_the_autocast_stay_near() -> None:
    network = small_bagel()
    exact = loss(network)
    with computing(CPU, "bf16"):
        torch.testing.assert_close(loss(network), exact, atol=0.05, rtol=0.02)


@pytest.fixture
def alone(tmp_path: Path) -> Generator[None, None, None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(network: Bagel) -> Bagel:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in blocks_of(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


@pytest.mark.usefixtures("alone")
def test_shards_are_cut_by_layers_and_have_the_gradients_of_the_whole() -> None:
    whole = small_bagel()
    network = sharded(copy.deepcopy(whole))
    assert len(blocks_of(whole)) == SIZES.decoder.layers + SIZES.vit.layers
    for packed in (ALL, WORDS):
        found, expected = gradients(network, packed), gradients(whole, packed)
        assert found.keys() == expected.keys() == dict(whole.named_parameters()).keys()
        for name, gradient in found.items():
            assert isinstance(gradient, DTensor)
            torch.testing.assert_close(gradient.full_tensor(), expected[name], **CLOSE)


def _one_of_two(rank: int, meet: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    found = gradients(sharded(small_bagel()), (ALL, WORDS)[rank])
    full = {n: g.full_tensor() for n, g in found.items() if isinstance(g, DTensor)}
    if rank == 0:
        torch.save(full, results)
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_whose_batches_need_other_experts_agree(tmp_path: Path) -> None:
    mp.spawn(_one_of_two, (str(tmp_path / "meet"), str(tmp_path / "results")), nprocs=2)
    found = torch.load(tmp_path / "results")
    each = [gradients(small_bagel(), packed) for packed in (ALL, WORDS)]
    assert found.keys() == each[0].keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, (each[0][name] + each[1][name]) / 2, **CLOSE)


def test_a_tiny_network_learns_when_to_draw_and_what() -> None:
    sizes = bagel_tiny(40, size=8)
    sizes = sizes.model_copy(update={"decoder": sizes.decoder.model_copy(update={"width": 64, "layers": 2, "mlp": 128})})
    torch.manual_seed(0)
    network = Bagel.of(sizes)
    pictures = [torch.full((3, 8, 8), v) for v in (-0.8, 0.8)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    first = last = 0.0
    for _ in range(60):
        samples = []
        for number, picture in enumerate(pictures * 4):
            noise = torch.randn(3, 8, 8, generator=generator)
            t = 0.6 + 0.4 * float(torch.rand((), generator=generator))
            samples.append([text(number % 2, 2, then="image"), NoisedImage(picture, noise, t)])
        packed = pack([[s] for s in samples], TOKENS, sizes)
        value = sample_losses(network(packed), packed).over_tokens()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        first, last = (first or value.item()), value.item()
    assert last < first / 4
    session = Session(network.eval(), TOKENS, [[text(0, 2)], [text(1, 2)]], seeds=[0, 1])
    assert session.following() == ["image", "image"]
    drawn = session.draw([0, 1], (8, 8), Drawing(steps=3, shift=1.0, text_scale=1.0))
    assert drawn[0].mean() < -0.4
    assert drawn[1].mean() > 0.4


def test_pictures_of_several_sizes_are_seen_as_each_alone() -> None:
    network = small_bagel()
    sizes = [(8, 8), (4, 16), (12, 8)]
    samples = [[SeenImage(image(n, s)), CleanImage(image(n, s)), text(n, 2, learn=True)] for n, s in enumerate(sizes)]
    together = pack([[s] for s in samples], TOKENS, SIZES)
    alone_ = [pack([[s]], TOKENS, SIZES) for s in samples]
    expected = torch.stack([sample_losses(network(p), p).by_sample()[0] for p in alone_])
    torch.testing.assert_close(sample_losses(network(together), together).by_sample(), expected, **CLOSE)
