"""A language model of this machine as a teacher, through transformers: from a caption to an instruction and the edited caption.

A model with a chat template is asked as a chat model is. One without, such as a GPT that was fine-tuned on triples as in the
paper (InstructPix2Pix, section 3.1.1), is given the caption and completes it: caption, "##", instruction, "%%", edited caption.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoTokenizer

from editkit.build.rows import Row
from editkit.build.teachers.captions import Captions, proposal
from editkit.build.teachers.chat import FIELDS, PROMPT
from editkit.errors import UserError
from editkit.models.locate import locate_model, version_of
from editkit.models.precision import choose_device, dtype_of
from editkit.models.quiet import quiet_files
from editkit.recipe.schema import PositiveInt, Section

VERSION = 1
AS_JSON = ' Answer with JSON alone: {"instruction": "...", "edited_caption": "..."}'
ASKED, BETWEEN, DONE = "\n##\n", "\n%%\n", "\nEND"  # around the texts of a model that completes


class LocalOptions(Section):
    """The keys of `[build.propose]` with `teacher = "local"`."""

    teacher: Literal["local"]
    model: str  # a folder, or a name on the Hub: any causal language model of transformers
    captions: str  # a text file with a caption a line, or a data set of captioned pictures, as a recipe's data.train has it
    prompt: str = PROMPT  # for a model with a chat template
    temperature: Annotated[float, Field(ge=0)] = 0.7  # 0 = the likeliest token
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: PositiveInt = 256
    attempts: PositiveInt = 3  # for one caption, with other random numbers
    batch_size: PositiveInt = 16
    precision: Literal["fp32", "bf16"] = "bf16"
    part_size: PositiveInt = 200


@dataclass(frozen=True)
class LocalTeacher:
    """The random numbers come from the seed, the captions of a batch and the attempt: a part is the same whoever makes it."""

    options: LocalOptions
    seed: int
    captions: Captions
    model_version: str
    processes = 0
    accelerated = True

    @classmethod
    def of(cls, options: LocalOptions, seed: int, counts: Mapping[str, int]) -> LocalTeacher:
        """Looks whether the captions are there and enough."""
        return cls(options, seed, Captions.of(options.captions, counts), version_of(options.model))

    def identity(self) -> Mapping[str, Any]:
        facts = self.options.model_dump(exclude={"teacher", "captions", "part_size"})
        hashes = {"model_sha256": self.model_version, "captions_sha256": self.captions.sha256}
        return {"name": "local", "version": VERSION, "seed": self.seed, **hashes, **facts}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        torch.set_num_threads(1)  # the sums of more threads would round otherwise
        folder, device = locate_model(self.options.model), choose_device()
        dtype = dtype_of(self.options.precision, device, "[build.propose]")
        try:
            with quiet_files():
                tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"[build.propose] model: {self.options.model} is no language model that transformers loads ({reason})"
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return partial(self._propose, tokenizer, model.to(device).eval(), self.captions.reader())

    def _propose(self, tokenizer: Any, model: Any, read: Callable[[Row], tuple[str, str]], rows: list[Row]) -> list[Row]:
        found = [read(row) for row in rows]
        answers: list[dict[str, str] | None] = [None] * len(rows)
        tries = [0] * len(rows)
        for attempt in range(self.options.attempts):
            open_ = [i for i, answer in enumerate(answers) if answer is None]
            for start in range(0, len(open_), self.options.batch_size):
                some = open_[start : start + self.options.batch_size]
                replies = self._complete(tokenizer, model, [found[i][1] for i in some], attempt)
                for i, reply in zip(some, replies, strict=True):
                    answers[i], tries[i] = read_answer(reply, as_json=bool(tokenizer.chat_template)), attempt + 1
        teacher = self.identity()
        return [proposal(row, *found[i], answers[i], {**teacher, "attempts": tries[i]}) for i, row in enumerate(rows)]

    @torch.no_grad()
    def _complete(self, tokenizer: Any, model: Any, captions: Sequence[str], attempt: int) -> list[str]:
        options = self.options
        prompts = [self._prompt(tokenizer, caption) for caption in captions]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template)
        key = json.dumps([self.seed, attempt, list(captions)]).encode()
        sampling = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p}
        with torch.random.fork_rng([model.device] if model.device.type != "cpu" else [], device_type=model.device.type):
            torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1)
            tokens = model.generate(
                **inputs.to(model.device),
                max_new_tokens=options.max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                **({} if tokenizer.chat_template else {"stop_strings": [DONE.strip()], "tokenizer": tokenizer}),
                **(sampling if options.temperature else {"do_sample": False}),
            )
        return tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def _prompt(self, tokenizer: Any, caption: str) -> str:
        if not tokenizer.chat_template:
            return caption + ASKED
        asked = [{"role": "system", "content": self.options.prompt + AS_JSON}, {"role": "user", "content": caption}]
        return tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)


def read_answer(reply: str, *, as_json: bool) -> dict[str, str] | None:
    """The two texts in what a model wrote, which may say more than it was asked for; None where they are not in it."""
    if not as_json:
        instruction, between, edited = reply.partition(DONE.strip())[0].partition(BETWEEN.strip())
        found = {"instruction": instruction.strip(), "edited_caption": edited.strip()}
        return found if between and all(found.values()) else None
    for match in re.finditer(r"\{[^{}]*\}", reply):
        try:
            value = json.loads(match[0], strict=False)
        except ValueError:
            continue
        if all(isinstance(value.get(name), str) and value[name].strip() for name in FIELDS):
            return {name: value[name].strip() for name in FIELDS}
    return None
