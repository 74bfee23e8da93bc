"""Asking an OpenAI-compatible endpoint for JSON: retries with backoff, a limit of rate, and a ledger of what it cost."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from editkit.errors import UserError

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses behind which another attempt may succeed


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a question.

    Attributes:
        answer: the fields that were asked for; None where no attempt brought them.
        model: as the server names it.
        tokens_in, tokens_out: of the attempt that succeeded.
    """

    answer: dict[str, str] | None
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(slots=True)
class Spent:
    """What a client has used up so far, useless attempts included.

    Attributes:
        calls: requests that were sent.
        tokens: in and out, as the servers count them.
        cost: by the prices that were stated.
    """

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0


class ChatClient:
    """Asks until there is an answer or the attempts are used up. Threads may share it.

    A server that is busy, broken or away is asked again after a wait that doubles; when that does not help, the build stops (it
    can go on later). A reply that is not the JSON that was asked for costs an attempt, too, but in the end only the question.
    """

    def __init__(
        self,
        url: str,
        *,
        key_env: str,
        per_minute: int,
        attempts: int,
        timeout_s: float,
        price: Price,
        ledger: Path,
        place: str,
        before_attempt: Callable[[], None] | None = None,
    ) -> None:
        self.spent = Spent()
        self._before_attempt = before_attempt  # may raise, where no more is to be spent
        self._place = place  # the table of the spec that names all this, for messages
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._attempts, self._price, self._ledger = attempts, price, ledger
        self._turn = _Turn(60 / per_minute if per_minute else 0.0)
        headers = {}
        if key_env:
            if not os.environ.get(key_env):
                raise UserError(
                    f"{place} key_env: found no environment variable {key_env}; put the key of the endpoint into it"
                )
            headers["Authorization"] = f"Bearer {os.environ[key_env]}"
        self._client = httpx2.Client(timeout=timeout_s, headers=headers)
        self._lock = threading.Lock()

    def ask(self, body: Mapping[str, Any], key: str, fields: Sequence[str]) -> Reply:
        """Asks one question.

        Args:
            body: of the request, in the form of OpenAI's chat completions.
            key: names the question in the ledger.
            fields: texts that the answer must have.

        Raises:
            UserError: the server refuses, or stays away.
        """
        problem = ""
        for attempt in range(self._attempts):
            self._turn.wait()
            if self._before_attempt is not None:
                self._before_attempt()
            started = time.monotonic()
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * random.uniform(0.5, 1)
            asked = {**body, "seed": body["seed"] + attempt}  # a server that keeps to it would repeat a useless reply
            try:
                response = self._client.post(self._url, json=asked)
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                self._note(key, attempt, started, type(error).__name__)
            else:
                reply, problem = _understand(response, fields)
                self._note(key, attempt, started, problem or "answered", reply)
                if reply is not None and reply.answer is not None:
                    return reply
                if response.status_code == 200:
                    problem = ""
                    continue
                if response.status_code not in PASSING:
                    raise UserError(f"{self._url}: {problem}; look at url, model and key_env of {self._place}")
                wait_s = _retry_after(response, wait_s)
            if attempt + 1 < self._attempts:
                time.sleep(wait_s)
        if problem:
            raise UserError(
                f"{self._url}: {problem} ({self._attempts} attempts); what was answered is kept, and the same command goes on"
            )
        return Reply(None)

    def _note(self, key: str, attempt: int, started: float, what: str, reply: Reply | None = None) -> None:
        tokens_in, tokens_out = (reply.tokens_in, reply.tokens_out) if reply else (0, 0)
        cost = (tokens_in * self._price.tokens_in + tokens_out * self._price.tokens_out) / 1e6
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "question": key,
            "attempt": attempt + 1,
            "outcome": what,
            "model": reply.model if reply else "",
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "cost": cost,
            "seconds": round(time.monotonic() - started, 3),
        }
        with self._lock, self._ledger.open("a", encoding="utf-8") as file:
            self.spent.calls += 1
            self.spent.tokens += tokens_in + tokens_out
            self.spent.cost += cost
            file.write(json.dumps(line) + "\n")


def _understand(response: httpx2.Response, fields: Sequence[str]) -> tuple[Reply | None, str]:
    """(reply, what is wrong with it); a reply without an answer still says what it cost."""
    if response.status_code != 200:
        return None, f"status {response.status_code}, {response.text.strip()[:200] or 'nothing else'}"
    try:
        envelope = response.json()
        usage = envelope.get("usage") or {}
        tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        model, text = str(envelope.get("model", "")), envelope["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None, "a reply that is no chat completion"
    try:
        answer = json.loads(text)
        found = {name: answer[name] for name in fields}
    except (ValueError, KeyError, TypeError):
        return Reply(None, model, *tokens), "an answer that is not the JSON that was asked for"
    if not all(isinstance(value, str) for value in found.values()):
        return Reply(None, model, *tokens), "an answer whose fields are no texts"
    return Reply(found, model, *tokens), ""


def _retry_after(response: httpx2.Response, otherwise_s: float) -> float:
    """What the server asks for in seconds, within reason; it may also name a date, which is not worth a clock's trust."""
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):
        return otherwise_s


class _Turn:
    """Lets threads through at least `gap_s` apart."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        if not self._gap_s:
            return
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._gap_s
        time.sleep(mine - now)
