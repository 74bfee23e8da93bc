"""Tokenizers in the layout of Qwen2.5's: the released one, or a small one of the same kind that a recipe trains."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer

from editkit.errors import UserError
from editkit.models.bagel.parts import SpecialTokens

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|endoftext|>")


def special_tokens(tokenizer: Qwen2Tokenizer) -> SpecialTokens:
    """The ids of the tokens between texts and pictures.

    Raises:
        UserError: the vocabulary lacks one.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [name for name in SPECIAL if name not in vocabulary]
    if missing:
        raise UserError(f"tokenizer: found no {', '.join(missing)}; expected a vocabulary of Qwen2.5's kind")
    return SpecialTokens(*(vocabulary[name] for name in SPECIAL))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """Learns a vocabulary of byte pairs from `texts`; every text can be encoded, and is the same when it is decoded.

    Args:
        texts: the training texts.
        vocab_size: tokens at most; at least 261, of the bytes and the five special ones.

    Raises:
        UserError: fewer than that.
    """
    alphabet = sorted(ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(SPECIAL):
        raise UserError(f"[model] vocab_size: found {vocab_size}; expected at least {len(alphabet) + len(SPECIAL)}")
    learner = Tokenizer(BPE())
    stock: Any = Qwen2Tokenizer().backend_tokenizer  # cuts texts into words as the released one does
    learner.normalizer, learner.pre_tokenizer = stock.normalizer, stock.pre_tokenizer
    size = vocab_size - len(SPECIAL)
    learner.train_from_iterator(texts, BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    state = json.loads(learner.to_str())["model"]
    made = Qwen2Tokenizer(vocab=state["vocab"], merges=[tuple(m) for m in state["merges"]])  # ty: ignore[invalid-argument-type]
    made.add_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return made


def encode(tokenizer: Qwen2Tokenizer, text: str) -> list[int]:
    """The tokens of a text; what looks like a special one in it is text."""
    found: Any = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(found["input_ids"])


def decode(tokenizer: Qwen2Tokenizer, ids: Iterable[int]) -> str:
    """The text of tokens, letter by letter."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
