"""Every optimiser: it trains, it goes on bit by bit from its saved state, and it gets the rates that the recipe names."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import schedulefree
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from editkit.errors import UserError
from editkit.models.stable_diffusion.load import Options, load
from editkit.recipe.load import dump, load_recipe
from editkit.recipe.schema import Optim, OptimGroup, Recipe
from editkit.train.muon import MuonAndAdamW, is_hidden_matrix
from editkit.train.optim import evaluating, lr_factor, make_optimizer, set_lr
from tests.methods.test_instruct_edit import recipe

FREE = {"name": "schedule_free", "lr": 1e-3}
NAMES = ["adamw", "adamw8bit", "prodigy", "schedule_free", "muon"]


class Network(nn.Module):
    """Large enough that the 8-bit optimiser keeps 8 bits (4,096 numbers a tensor)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 64)
        self.blocks = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(64, 96), "down": nn.Linear(96, 64)}) for _ in range(2))
        self.norm = nn.LayerNorm(64)
        self.last = nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block["down"](torch.tanh(block["up"](x)))
        return self.last(self.norm(x))


class Run:
    """A training like the loop's, on data that depends on the step alone."""

    def __init__(self, options: Optim, total: int = 10) -> None:
        torch.manual_seed(0)
        self.network, self.options, self.total, self.losses = Network(), options, total, []
        groups = [{"params": list(self.network.parameters())}]
        self.optimizer = make_optimizer(groups, options, dict(self.network.named_parameters()))

    def train(self, start: int, stop: int) -> None:
        for step in range(start, stop):
            set_lr(self.optimizer, lr_factor(step, self.total, self.options))
            x = torch.randn(32, 8, generator=torch.Generator().manual_seed(step % 4))
            loss = (self.network(x) - x[:, :2] * x[:, 2:4]).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(loss.item())


def options_of(name: str, **changes: object) -> Optim:
    rate = {"prodigy": 1.0}.get(name, 5e-3)
    return Optim(**({"name": name, "lr": rate, "warmup": 2} | changes))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decay_vectors", [True, False])
def test_five_steps_a_saved_state_and_five_more_are_ten_steps(name: str, decay_vectors: bool) -> None:
    options = options_of(name, decay_vectors=decay_vectors, schedule="constant" if name == "schedule_free" else "cosine")
    straight, first, second = Run(options), Run(options), Run(options)
    straight.train(0, 10)
    first.train(0, 5)
    file = io.BytesIO()
    torch.save({"network": first.network.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second.network.load_state_dict(state["network"])
    second.optimizer.load_state_dict(state["optimizer"])
    second.train(5, 10)
    assert second.losses == straight.losses[5:]
    for parameter, expected in zip(second.network.parameters(), straight.network.parameters(), strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(name: str) -> None:
    run = Run(options_of(name), total=120)
    run.train(0, 120)
    assert sum(run.losses[-8:]) < 0.5 * sum(run.losses[:8])


def test_eight_bits_are_eight_bits() -> None:
    run = Run(options_of("adamw8bit"))
    run.train(0, 1)
    types = {run.optimizer.state[p]["state1"].dtype for p in run.network.blocks[0]["up"].parameters()}
    assert types == {torch.uint8, torch.float32}  # the matrix and the bias


def test_muon_and_adamw_look_like_one_optimiser() -> None:
    run = Run(options_of("muon", decay_vectors=False))
    optimizer = run.optimizer
    assert isinstance(optimizer, MuonAndAdamW)
    names = {id(p): n for n, p in run.network.named_parameters()}
    first, *others = [[names[id(p)] for p in g["params"]] for g in optimizer.param_groups]
    assert first == [f"blocks.{i}.{part}.weight" for i in range(2) for part in ("up", "down")]
    assert {n for group in others for n in group} == set(names.values()) - set(first)
    run.train(0, 2)
    assert len(optimizer.state) == len(names)
    before = [p.detach().clone() for p in run.network.parameters()]
    set_lr(optimizer, 0.0)
    run.network(torch.ones(1, 8)).sum().backward()
    assert optimizer.step(lambda: 3.0) == 3.0
    assert all(torch.equal(p, b) for p, b in zip(run.network.parameters(), before, strict=True)), "a rate of 0 moves nothing"
    optimizer.zero_grad()
    assert all(p.grad is None for p in run.network.parameters())


@pytest.mark.parametrize(("bf16", "tolerance"), [(True, 0.0), (False, 1e-3)])
def test_muon_is_that_of_torch_and_adamw_that_of_torch(bf16: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editkit.train.muon.has_bf16", lambda _: bf16)
    run = Run(options_of("muon", warmup=0))
    by_hand = Run(options_of("muon", warmup=0))
    matrices = [p for n, p in by_hand.network.named_parameters() if n.startswith("blocks") and p.dim() == 2]
    others = [p for n, p in by_hand.network.named_parameters() if not (n.startswith("blocks") and p.dim() == 2)]
    muon = torch.optim.Muon(matrices, lr=5e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=5e-3, fused=True)
    run.train(0, 3)

    class Both:
        param_groups = [{"lr": 5e-3, "base_lr": 5e-3}]

        def step(self) -> None:
            muon.step()
            adamw.step()

        def zero_grad(self) -> None:
            muon.zero_grad()
            adamw.zero_grad()

    by_hand.optimizer = Both()
    by_hand.train(0, 3)
    assert run.losses == pytest.approx(by_hand.losses, rel=tolerance, abs=0)
    assert (run.losses == by_hand.losses) == bf16, "in fp32 it is not rounded as in bf16"


def test_muon_leaves_first_and_last_layers_embeddings_norms_and_modulations_alone(tiny_sd: Path) -> None:
    flux = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        pooled_projection_dim=32, in_channels=4, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    parts = load(str(tiny_sd), Options())
    lists = {
        "flux": (flux, ("x_embedder", "context_embedder", "time_text_embed", "norm", "bias")),
        "unet": (
            nn.ModuleDict({"unet": parts.unet}),
            ("conv_in", "conv_out", "time_embedding", "time_emb_proj", "norm", "bias"),
        ),
        "text": (parts.text_encoder, ("token_embedding", "position_embedding", "layer_norm", "bias")),
    }
    for network, excluded in lists.values():
        hidden = {n for n, p in network.named_parameters() if is_hidden_matrix(n, p)}
        assert not {n for n in hidden for word in excluded if word in n}
        queries = {n for n, _ in network.named_parameters() if n.endswith(("to_q.weight", "q_proj.weight"))}
        assert queries
        assert queries <= hidden
    assert not is_hidden_matrix("proj_out.weight", flux.proj_out.weight)
    assert is_hidden_matrix("single_transformer_blocks.0.proj_out.weight", flux.single_transformer_blocks[0].proj_out.weight)
    assert not is_hidden_matrix("transformer_blocks.0.img_mod.1.weight", flux.proj_out.weight)


def test_muon_says_what_it_does_to_a_pretrained_base(capsys: pytest.CaptureFixture[str]) -> None:
    network = Network()
    groups, named = [{"params": list(network.parameters())}], dict(network.named_parameters())
    make_optimizer(groups, options_of("muon"), named)
    assert capsys.readouterr().out == ""
    make_optimizer(groups, options_of("muon"), named, pretrained=True)
    assert "trained by Adam" in capsys.readouterr().out
    with pytest.raises(UserError, match="found no matrix"):
        make_optimizer([{"params": list(network.norm.parameters())}], options_of("muon"), named)


def test_groups_of_the_method_keep_their_own_rates() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer([{"params": [a]}, {"params": [b], "lr": 0.5}], Optim(lr=0.1))
    assert set_lr(optimizer, 0.2) == pytest.approx(0.02)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02, 0.1])


@pytest.mark.parametrize("name", ["adamw", "muon", "adamw8bit", "schedule_free"])
def test_groups_of_the_recipe_have_their_own_rates_and_decays(name: str) -> None:
    network = Network()
    options = options_of(
        name,
        weight_decay=0.1,
        decay_vectors=False,
        groups=[OptimGroup(match=r"^first\.", lr=1e-5), OptimGroup(match=r"\.up\.|first", weight_decay=0.3)],
    )
    optimizer = make_optimizer([{"params": list(network.parameters())}], options, dict(network.named_parameters()))
    names = {id(p): n for n, p in network.named_parameters()}
    found = {names[id(p)]: (g["base_lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found.keys() == set(names.values())
    assert found["first.weight"] == (1e-5, 0.1)
    assert found["first.bias"] == (1e-5, 0.0)
    assert found["blocks.1.up.weight"] == (5e-3, 0.3)
    assert found["blocks.1.down.weight"] == (5e-3, 0.1)
    assert found["norm.weight"] == found["blocks.0.up.bias"] == (5e-3, 0.0)


def test_groups_that_change_nothing_train_the_same() -> None:
    plain = Run(options_of("adamw"))
    grouped = Run(options_of("adamw", groups=[OptimGroup(match="down"), OptimGroup(match="norm", lr=5e-3)]))
    plain.train(0, 4)
    grouped.train(0, 4)
    assert grouped.losses == plain.losses


@pytest.mark.parametrize(
    ("matches", "words"),
    [(["attn"], "fits no trained parameter; they are called first.weight"), (["up", "blocks.*up"], "an earlier table has")],
)
def test_a_pattern_that_fits_nothing_is_said(matches: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Run(options_of("adamw", groups=[OptimGroup(match=m) for m in matches]))


def test_a_recipe_of_groups_loads_back_and_a_bad_one_is_explained(tmp_path: Path) -> None:
    written = recipe(optim=Optim(lr=1e-3, groups=[OptimGroup(match="a"), OptimGroup(match="b", lr=0.5, weight_decay=0.0)]))
    path = tmp_path / "recipe.toml"
    path.write_text(dump(written))
    assert load_recipe(path)[0] == written
    text = path.read_text()
    for before, after, words in (
        ('match = "a"', 'match = "(a"', "no regular expression"),
        ('match = "a"', 'mach = "a"', 'did you mean "match"'),
    ):
        assert before in text
        path.write_text(text.replace(before, after))
        with pytest.raises(UserError, match=words):
            load_recipe(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim": FREE | {"schedule": "cosine"}}, "schedule_free needs none"),
        ({"optim": {"name": "prodigy", "lr": 1e-4}}, "set lr = 1.0"),
        ({"optim": {"lr": 1e-4, "momentum": 0.9}}, 'momentum: belongs to name = "muon"; found name = "adamw"'),
        ({"optim": {"lr": 1e-4, "decay_share": 0.5}}, 'decay_share: belongs to schedule = "wsd"'),
        ({"optim": FREE, "train": {"steps": 1, "batch_size": 1, "ema_decay": 0.9}}, "averages by itself"),
        ({"optim": FREE, "train": {"steps": 1, "batch_size": 1, "post_hoc_ema": True}}, "averages by itself"),
    ],
)  # fmt: skip
def test_rates_and_averages_that_do_not_go_together_are_refused(changes: dict, words: str) -> None:
    values = recipe().model_dump()
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate(values | changes)


def test_prodigy_has_one_rate() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match=r"one rate for all; found groups with 0.5, 1"):
        make_optimizer([{"params": [a]}, {"params": [b], "lr": 0.5}], options_of("prodigy"))


def test_prodigy_keeps_its_remarks_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    Run(options_of("prodigy"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "module"), [("adamw8bit", "bitsandbytes.optim"), ("prodigy", "prodigyopt"), ("schedule_free", "schedulefree")]
)
def test_a_package_that_is_not_there_is_named_with_its_extra(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"needs {module.partition('.')[0]}.*editkit\[optimizers\]"):
        Run(options_of(name))


def test_schedule_free_shows_its_average_and_trains_on_as_if_nobody_had_looked() -> None:
    looked, straight = Run(options_of("schedule_free")), Run(options_of("schedule_free"))
    looked.train(0, 5)
    trained = [p.detach().clone() for p in looked.network.parameters()]
    with evaluating(looked.optimizer):
        shown = [p.detach().clone() for p in looked.network.parameters()]
    beta = looked.options.betas[0]
    for parameter, y, x in zip(looked.network.parameters(), trained, shown, strict=True):
        z = looked.optimizer.state[parameter]["z"]
        torch.testing.assert_close(beta * x + (1 - beta) * z, y)  # eq. 3 of the paper
        assert torch.equal(parameter, y)
    assert not all(torch.equal(x, y) for x, y in zip(shown, trained, strict=True))
    looked.train(5, 10)
    straight.train(0, 10)
    assert looked.losses == straight.losses


def test_our_warm_up_of_schedule_free_is_its_own() -> None:
    ours, own = Run(options_of("schedule_free", warmup=6)), Run(options_of("schedule_free", warmup=0))
    own.optimizer = schedulefree.AdamWScheduleFree(own.network.parameters(), lr=5e-3, weight_decay=0.01, warmup_steps=6)
    own.optimizer.param_groups[0]["base_lr"] = 5e-3
    own.optimizer.train()
    ours.train(0, 10)
    own.train(0, 10)
    assert ours.losses == pytest.approx(own.losses, rel=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon", "prodigy"])
def test_the_others_have_nothing_to_switch(name: str) -> None:
    run = Run(options_of(name))
    run.train(0, 1)
    before = [p.detach().clone() for p in run.network.parameters()]
    with evaluating(run.optimizer):
        assert all(torch.equal(p, b) for p, b in zip(run.network.parameters(), before, strict=True))


@given(st.integers(1, 500), st.integers(0, 100), st.sampled_from(["constant", "cosine", "linear", "wsd"]), st.floats(0, 1))
def test_a_schedule_warms_up_and_never_leaves_its_range(total: int, warmup: int, kind: str, share: float) -> None:
    options = Optim(lr=1.0, schedule=kind, warmup=warmup, **({"decay_share": share} if kind == "wsd" else {}))
    factors = [lr_factor(step, total, options) for step in range(total)]
    assert all(0 <= f <= 1 for f in factors)
    rising = factors[: min(warmup, total)]
    assert rising == sorted(rising)
    falling = factors[warmup:]
    assert falling == sorted(falling, reverse=True)
    if warmup < total:
        assert factors[warmup] == 1.0


def test_where_the_schedules_end() -> None:
    def factor(kind: str, step: int) -> float:
        return lr_factor(step, 1000, Optim(lr=1.0, schedule=kind, **({"decay_share": 0.1} if kind == "wsd" else {})))

    last = {k: factor(k, 999) for k in ("constant", "cosine", "linear", "wsd")}
    assert last["constant"] == 1.0
    assert 0 < last["cosine"] < last["linear"] < 0.002
    assert last["wsd"] == pytest.approx(0.01)
    assert [factor("wsd", step) for step in (0, 899, 900, 950)] == pytest.approx([1, 1, 1, 0.5])
