"""A language model of this machine as a teacher: a real one of transformers, taught a few triples here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from editkit.build.rows import Row
from editkit.build.teachers.local import ASKED, BETWEEN, DONE, LocalOptions, LocalTeacher, read_answer
from editkit.errors import UserError

TRIPLES = {
    "a blue house": ("make the house red", "a red house"),
    "a dog on a beach": ("put a hat on the dog", "a dog with a hat on a beach"),
    "a road in summer": ("make it winter", "a road in winter"),
}
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def teach(folder: Path, template: str = "") -> str:
    """Trains a small Llama until it completes the captions of `TRIPLES`, and saves it."""
    words = [
        *TRIPLES,
        *(t for pair in TRIPLES.values() for t in pair),
        ASKED + BETWEEN + DONE,
        '{"instruction": edited_caption}',
    ]
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", pad_token="<end>", padding_side="left")
    if template:
        tokenizer.chat_template = template
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    texts = [(_prompt(tokenizer, caption), _reply(pair, bool(template))) for caption, pair in TRIPLES.items()]
    rows = [(tokenizer(p, add_special_tokens=False)["input_ids"], tokenizer(r)["input_ids"]) for p, r in texts]
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(120):
        loss = torch.zeros(())
        for prompt, reply in rows:
            tokens = torch.tensor([[*prompt, *reply, tokenizer.eos_token_id]])
            labels = tokens.clone()
            labels[:, : len(prompt)] = -100
            loss = loss + model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _prompt(tokenizer: Any, caption: str) -> str:
    if not tokenizer.chat_template:
        return caption + ASKED
    asked = [{"role": "user", "content": caption}]  # a short one, so that it is soon learned: the system's is dropped below
    return tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)


def _reply(pair: tuple[str, str], as_json: bool) -> str:
    if not as_json:
        return pair[0] + BETWEEN + pair[1] + DONE
    return "Sure: " + json.dumps({"instruction": pair[0], "edited_caption": pair[1]})


@pytest.fixture(scope="module")
def completing(tmp_path_factory: pytest.TempPathFactory) -> str:
    return teach(tmp_path_factory.mktemp("completing") / "model")


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> str:
    template = CHAT.replace("{% for m in messages %}", '{% for m in messages if m.role == "user" %}')
    return teach(tmp_path_factory.mktemp("chatting") / "model", template)


def propose(model: str, captions: list[str], **changes: Any) -> list[Row]:
    Path("captions.txt").write_text("\n".join(captions) + "\n")
    given = {"model": model, "captions": "captions.txt", "temperature": 0, "precision": "fp32", "max_tokens": 64, **changes}
    teacher = LocalTeacher.of(LocalOptions(teacher="local", **given), 7, {"train": len(captions), "test": 0})
    return teacher.open()([{"split": "train", "index": i} for i in range(len(captions))])


@pytest.mark.parametrize("kind", ["completing", "chatting"])
def test_a_caption_becomes_an_instruction_and_an_edited_caption(
    kind: str, workplace: Path, request: pytest.FixtureRequest
) -> None:
    rows = propose(request.getfixturevalue(kind), [*TRIPLES], batch_size=2)
    assert {r["caption"]: (r["instructions"][0], r["edited_caption"]) for r in rows} == TRIPLES
    assert [(r["key"], r["parent"], r["dropped"]) for r in rows][1] == ("train-000001", "line 2", "")
    teacher = json.loads(rows[0]["teacher"])
    assert (teacher["name"], teacher["seed"], teacher["attempts"]) == ("local", 7, 1)
    assert len(teacher["model_sha256"]) == 16


def test_what_cannot_be_used_is_tried_again_and_then_dropped(completing: str, workplace: Path) -> None:
    rows = propose(completing, ["a blue house", "zzz 999 zzz"], attempts=2, max_tokens=3)
    assert [r["dropped"] for r in rows] == ["no usable reply"] * 2
    assert [json.loads(r["teacher"])["attempts"] for r in rows] == [2, 2]


def test_the_same_seed_gives_the_same_rows_and_the_numbers_around_stay(completing: str, workplace: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = propose(completing, ["a blue house", "a dog"], temperature=1.5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert propose(completing, ["a blue house", "a dog"], temperature=1.5) == first


@pytest.mark.parametrize(
    ("reply", "as_json", "found"),
    [
        ('{"instruction": "make it red", "edited_caption": "a red house"}', True, ("make it red", "a red house")),
        ('Of course!\n```json\n{"instruction": " a ", "edited_caption": "b\nc"}\n``` {}', True, ("a", "b\nc")),
        ('{"instruction": ""} {"instruction": "a", "edited_caption": "b"}', True, ("a", "b")),
        ('{"instruction": "a", "edited_caption": 3}', True, None),
        ('{"instruction": "a", "edited_caption": "b"', True, None),
        ("", True, None),
        ("make it red\n%%\na red house\nEND\nmore", False, ("make it red", "a red house")),
        ("make it red", False, None),
        ("\n%%\na red house", False, None),
    ],
)
def test_answers_are_found_in_what_a_model_writes(reply: str, as_json: bool, found: tuple[str, str] | None) -> None:
    answer = read_answer(reply, as_json=as_json)
    assert (answer and (answer["instruction"], answer["edited_caption"])) == found


def test_a_folder_without_a_language_model_is_one_line(workplace: Path, tiny_sd: Path) -> None:
    with pytest.raises(UserError, match="is no language model that transformers loads"):
        propose(str(tiny_sd), ["a blue house"])
