"""A chat model behind an OpenAI-compatible endpoint, as a spec names it, and questions to it that are asked only once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from pydantic import Field

from editkit.models.chat.client import ChatClient, Price, Reply, Spent
from editkit.models.chat.replies import Replies, replies_folder
from editkit.recipe.schema import NonNegativeInt, PositiveFloat, PositiveInt, Section


class Endpoint(Section):
    """Where it is, and within which limits it is asked."""

    url: Annotated[str, Field(pattern=r"^https?://")]  # up to and with /v1: vLLM, llama.cpp, a vendor
    model: str
    key_env: str = ""  # the environment variable that holds the key; keys stand in no spec
    max_tokens: PositiveInt = 256
    concurrency: PositiveInt = 8  # requests at once
    per_minute: NonNegativeInt = 0  # requests at most; 0 = as many as it takes
    attempts: PositiveInt = 6  # for one question
    timeout_s: PositiveFloat = 60.0
    price_in: Annotated[float, Field(ge=0)] = 0.0  # for a million tokens, in whatever currency; for the ledger
    price_out: Annotated[float, Field(ge=0)] = 0.0


class Questions:
    """Asks, and keeps what was replied by what was asked: a build that goes on, or another filter, asks nothing twice.

    Args:
        options: of the endpoint.
        place: the table of the spec that has them, for messages.
        before_attempt: called before every request; what it raises ends the asking.
    """

    def __init__(self, options: Endpoint, place: str, before_attempt: Callable[[], None] | None = None) -> None:
        folder = replies_folder()
        self._concurrency = options.concurrency
        self._replies = Replies(folder / "replies.sqlite")
        self._client = ChatClient(
            options.url,
            key_env=options.key_env,
            per_minute=options.per_minute,
            attempts=options.attempts,
            timeout_s=options.timeout_s,
            price=Price(options.price_in, options.price_out),
            ledger=folder / "ledger.jsonl",
            place=place,
            before_attempt=before_attempt,
        )

    @property
    def spent(self) -> Spent:
        """What was used up by this asking; a reply that was kept costs nothing."""
        return self._client.spent

    def answers(self, bodies: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> list[Reply]:
        """The replies to requests in the form of OpenAI's chat completions, in their order; several are asked at once.

        Args:
            bodies: the requests.
            fields: texts that every answer must have.
        """
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            return list(pool.map(lambda body: self._answer(body, fields), bodies))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, body: Mapping[str, Any], fields: Sequence[str]) -> Reply:
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        known = self._replies.get(key)
        if known is None:
            known = self._client.ask(body, key, fields)
            self._replies.put(key, known)
        return known


def as_json(name: str, fields: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The form of an answer: an object of texts, each one of several where they are given."""
    texts = {field: {"type": "string", **({"enum": list(some)} if some else {})} for field, some in fields.items()}
    schema = {"type": "object", "properties": texts, "required": list(fields), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
