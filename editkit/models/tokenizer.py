"""A small byte-pair tokenizer in the layout of CLIP's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def train_clip_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> CLIPTokenizer:
    """Learns a vocabulary from `texts`.

    Every byte is in the vocabulary, alone and as a word's end, so that any text can be encoded.

    Args:
        texts: the training texts.
        vocab_size: tokens at most; at least 514 are needed for the bytes and the two special ones.
        max_length: tokens a text is cut to, the two special ones included.
    """
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(_WORDS), "removed", invert=True), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=max(vocab_size - 2 - len(alphabet), len(alphabet) + 1),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = _vocabulary_in_order(tokenizer)
    vocab: dict[str, int] = {}
    for piece in [*alphabet, *(a + "</w>" for a in alphabet), *learned, START, END]:
        vocab.setdefault(piece, len(vocab))
    merges: Any = _merges(tokenizer)  # its annotation says text; it takes pairs
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def tokenizer_hash(tokenizer: CLIPTokenizer) -> str:
    """A hash of what a tokenizer does: vocabulary, merges, normalisation and length."""
    does = tokenizer.backend_tokenizer.to_str() + str(tokenizer.model_max_length)
    return hashlib.sha256(does.encode()).hexdigest()


def _vocabulary_in_order(tokenizer: Tokenizer) -> list[str]:
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]
