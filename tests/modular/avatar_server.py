"""A server process on loopback that plans avatars and looks at them: chat completions whose pictures it really reads.

It plans by the grammar of the avatars world from the picture that it is sent, and inspects by the attribute reader. Of the
model "malformed" no reply is JSON that was asked for. Every request is a line in the log: the model, what was asked, and how
many pictures came along.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from tests.build.chat_server import ChatServer, chat_server, serve


@contextmanager
def avatar_server(log: Path) -> Iterator[ChatServer]:
    """Runs until the block ends."""
    with chat_server(log, "tests.modular.avatar_server") as server:
        yield server


@cache
def _judge() -> Any:
    from editkit.lab.judges import LabJudge

    return LabJudge("lab:judges")


def _read(part: dict[str, Any]) -> dict[str, str]:
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return _judge().read([Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")])[0]


def _plan(text: str, picture: dict[str, Any]) -> dict[str, str]:
    from editkit.build.teachers.planner import FIELDS
    from editkit.lab.avatar_goals import plan_edits, read_goal, seen_as

    steps = plan_edits(seen_as(_read(picture)), read_goal(text.partition("\n\n")[0]), 5, Random(0))
    said = {f"{k}_{n}": v for n, s in enumerate(steps, 1) for k, v in zip(("instruction", "description"), s, strict=True)}
    return {**dict.fromkeys(FIELDS, ""), "scene_graph": "an avatar", **said}


def _inspect(text: str, picture: dict[str, Any]) -> dict[str, str]:
    from editkit.lab.avatar_goals import inspect_reading

    prompt = re.search(r"^Prompt: (.*)$", text, re.M)
    assert prompt is not None
    described = text.splitlines()[-1].partition(" Then: ")[2]
    seen = inspect_reading(_read(picture), prompt[1], described, Random(0))
    lists = {"issues": "; ".join(seen.issues), "still_to_come": "; ".join(seen.deferred)}
    return {"verdict": "correct" if seen.ok else "wrong", **lists, "correction": seen.refine}


class _Handler(BaseHTTPRequestHandler):
    log = Path()

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        named = body["response_format"]["json_schema"]["name"]
        (text, *pictures) = body["messages"][-1]["content"]
        with self.log.open("a") as file:
            file.write(json.dumps({"caption": named, "model": body["model"], "pictures": len(pictures)}) + "\n")
        answer = {} if body["model"] == "malformed" else {"plan": _plan, "inspection": _inspect}[named](text["text"], *pictures)
        message = {"role": "assistant", "content": json.dumps(answer)}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        data = json.dumps({"model": "reader-1", "choices": [{"index": 0, "message": message}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    serve(_Handler, Path(sys.argv[1]))
