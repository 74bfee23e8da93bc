"""Encoded texts: from memory, from the store, or from the encoder, they are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers

from editkit.data.store import Store
from editkit.models.stable_diffusion.forward import TextStates, encode_texts
from editkit.models.stable_diffusion.load import Options, StableDiffusion, load
from editkit.models.tokenizer import tokenizer_hash

TEXTS = ["make the hair red", "remove the glasses", "add a beard", "make the hair red", "ein Bart, bitte"]
ROUNDING = 1e-6


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "store", limit_bytes=50 * 2**20) as opened:
        yield opened


def frozen(tiny_sd: Path) -> StableDiffusion:
    parts = load(str(tiny_sd), Options())
    parts.text_encoder.requires_grad_(False)
    return parts


def filled(parts: StableDiffusion, store: Store, capsys: pytest.CaptureFixture[str]) -> tuple[TextStates, tuple[int, int]]:
    """The states, and how many entries were found and made."""
    states = TextStates(parts)
    states.fill(TEXTS, store)
    words = capsys.readouterr().out.replace(",", "").split()
    return states, (int(words[words.index("found") - 1]), int(words[words.index("made") - 1]))


def forbid_encoding(parts: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.text_encoder, "forward", lambda *_, **__: pytest.fail("a text was encoded again"))


@pytest.mark.parametrize("empty", [False, True])
def test_states_from_the_store_are_those_of_the_encoder(
    tiny_sd: Path, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    parts = frozen(tiny_sd)
    texts = [*TEXTS, ""] if empty else TEXTS
    with torch.no_grad():
        expected = encode_texts(parts, texts)
    states, counts = filled(parts, store, capsys)
    assert counts == (0, 5), "four texts and the empty one, each once"
    forbid_encoding(parts, monkeypatch)
    torch.testing.assert_close(states(texts), expected, atol=ROUNDING, rtol=0)


def test_another_run_takes_them_from_the_store(
    tiny_sd: Path, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = filled(frozen(tiny_sd), store, capsys)[0](TEXTS)
    again = frozen(tiny_sd)
    forbid_encoding(again, monkeypatch)
    states, counts = filled(again, store, capsys)
    assert counts == (5, 0)
    assert torch.equal(states(TEXTS), expected)


def test_other_weights_or_another_tokenizer_reuse_nothing(
    tiny_sd: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(frozen(tiny_sd), store, capsys)
    heavier = frozen(tiny_sd)
    with torch.no_grad():
        next(heavier.text_encoder.parameters()).view(-1)[0] += 1e-3
    assert filled(heavier, store, capsys)[1] == (0, 5)
    shorter = frozen(tiny_sd)
    before = tokenizer_hash(shorter.tokenizer)
    shorter.tokenizer.model_max_length -= 8
    assert tokenizer_hash(shorter.tokenizer) != before
    states, counts = filled(shorter, store, capsys)
    assert counts == (0, 5)
    assert states(TEXTS).shape[1] == 24
    cased = frozen(tiny_sd)
    cased.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert filled(cased, store, capsys)[1] == (0, 5)
    assert filled(frozen(tiny_sd), store, capsys)[1] == (5, 0)


def test_what_the_store_has_lost_comes_from_the_encoder(
    tiny_sd: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = frozen(tiny_sd)
    states, _ = filled(parts, store, capsys)
    for shard in store._opened():  # as another run's eviction would
        shard.evict({key: stamp for stamp, key, _ in shard.uses() if key == states._key("add a beard")})
    assert store.missing([states._key(t) for t in TEXTS]) == [2]
    with torch.no_grad():
        torch.testing.assert_close(states(TEXTS), encode_texts(parts, TEXTS), atol=ROUNDING, rtol=0)


def test_a_trained_encoder_is_asked_every_time(tiny_sd: Path, store: Store) -> None:
    parts = load(str(tiny_sd), Options())
    states = TextStates(parts)
    states.fill(TEXTS, store)
    assert store.size_bytes() == 0
    before = states(TEXTS)
    assert before.requires_grad
    with torch.no_grad():
        parts.text_encoder.get_input_embeddings().weight.mul_(1.5)
    assert not torch.allclose(states(TEXTS), before)


def test_memory_stays_bounded_and_what_was_forgotten_comes_back(tiny_sd: Path) -> None:
    parts = frozen(tiny_sd)
    one = 32 * 32 * 4  # tokens x width x float32
    states = TextStates(parts, limit_bytes=2 * one)
    with torch.no_grad():
        for text in [*TEXTS, *TEXTS]:
            torch.testing.assert_close(states([text]), encode_texts(parts, [text]), atol=ROUNDING, rtol=0)
            assert len(states._known) <= 2
        torch.testing.assert_close(states(TEXTS), encode_texts(parts, TEXTS), atol=ROUNDING, rtol=0)
