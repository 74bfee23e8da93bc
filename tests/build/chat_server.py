"""A server process on loopback that speaks the chat completions of OpenAI, and misbehaves where the caption says so.

"[429 once]" in a caption: the first request for it is refused; likewise 500, 503; "[malformed once]", "[malformed always]",
"[empty always]", "[wrong type once]", "[slow once]", "[cut once]", "[500 always]", "[401]"; of traces "[no steps]", "[wrong]",
"[wrong always]". Every request is a line in the log.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent.parent
SLOW_S = 3.0
STEP = ("instruction", "description")


@dataclass(frozen=True)
class ChatServer:
    """Its address, and what it was asked."""

    url: str
    log: Path

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def asked(self) -> Counter[str]:
        return Counter(request["caption"] for request in self.requests())


def _completion(content: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    return {"model": "loopback-1", "choices": [{"index": 0, "message": message}], "usage": usage}


def _difference(content: list[dict[str, Any]]) -> str:
    """Looks at both pictures: which of the three colours grew most."""
    means = []
    for part in content[1:]:
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            means.append([sum(band.histogram()[v] * v for v in range(256)) for band in picture.convert("RGB").split()])
    grown = [after - before for before, after in zip(*means, strict=True)]
    colour = ("red", "green", "blue")[grown.index(max(grown))]
    agrees = "yes" if f"more {colour}" in content[0]["text"] or "Then answer yes" in content[0]["text"] else "no"
    return json.dumps({"instruction": f"make it more {colour}", "agrees": agrees})


def _plan(asked: str) -> str:
    """Two steps for a prompt of two objects: "a dog and a red ball"; none where the prompt says so."""
    prompt, _, _ = asked.partition("\n\n")
    first, _, second = prompt.partition(" [")[0].partition(" and ")
    steps = [] if "[no steps]" in prompt else [(f"Add {first}.", first), (f"Add\n{second}.", f"{first} and {second}")]
    steps += [("", "")] * (5 - len(steps))
    said = {f"{what}_{n}": text for n, step in enumerate(steps, 1) for what, text in zip(STEP, step, strict=True)}
    return json.dumps({"scene_graph": f"objects: {first}, {second}", **said})


def _inspection(asked: str, seen: bool) -> str:
    """Step 1 is right, what follows is wrong where the prompt says so; a correction is right, unless "[wrong always]"."""
    last = asked.splitlines()[-1]
    wrong = "[wrong always]" in asked or ("[wrong]" in asked and "Add" in last)
    issues = "the ball is blue, not red; it floats." if wrong else ""
    correction = ("Paint the ball red." if seen else "Ask for a red ball.") if wrong else ""
    verdict = {"verdict": "wrong" if wrong else "correct", "issues": issues, "correction": correction}
    return json.dumps({**verdict, "still_to_come": "a red ball." if "Step 2" not in asked else ""})


def _judgement(content: list[dict[str, Any]], schema: dict[str, Any]) -> str:
    """Of the words that every field allows, the darker the picture the earlier: the first one for black, the last for white."""
    with Image.open(io.BytesIO(base64.b64decode(content[1]["image_url"]["url"].partition(",")[2]))) as picture:
        light = picture.convert("L").resize((1, 1)).getpixel((0, 0)) / 255
    words = {name: field["enum"] for name, field in schema["properties"].items()}
    return json.dumps({name: some[round(light * (len(some) - 1))].capitalize() + "." for name, some in words.items()})


@contextmanager
def chat_server(log: Path, module: str = "tests.build.chat_server") -> Iterator[ChatServer]:
    """Runs until the block ends; `module` calls `serve`."""
    process = subprocess.Popen([sys.executable, "-m", module, str(log)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield ChatServer(f"http://127.0.0.1:{int(process.stdout.readline())}/v1", log)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log = Path()
    lock = threading.Lock()
    times: Counter[str] = Counter()

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        caption = content if isinstance(content, str) else content[0]["text"]
        with self.lock:
            self.times[caption] += 1
            first = self.times[caption] == 1
            line = {"caption": caption, "path": self.path, "at": time.monotonic(), "key": self.headers.get("Authorization")}
            with self.log.open("a") as file:
                file.write(json.dumps({**line, "body": body}) + "\n")
        if "[401]" in caption:
            return self._send(401, {"error": {"message": "no such key"}})
        for status in (429, 500, 503):
            if f"[{status} always]" in caption or (f"[{status} once]" in caption and first):
                return self._send(status, {"error": {"message": "busy"}})
        if "[slow once]" in caption and first:
            time.sleep(SLOW_S)
        if "[cut once]" in caption and first:
            self.close_connection = True
            return self.connection.close()
        named = body["response_format"]["json_schema"]["name"]
        if named == "plan":
            return self._send(200, _completion(_plan(caption)))
        if named == "inspection":
            return self._send(200, _completion(_inspection(caption, len(content) > 1)))
        if named == "judgement":
            said = _judgement(content, body["response_format"]["json_schema"]["schema"])
            return self._send(200, _completion(said[:-2] if "[malformed always]" in caption else said))
        if not isinstance(content, str):
            return self._send(200, _completion(_difference(content)))
        return self._send(200, self._completion(caption, first))

    def _completion(self, caption: str, first: bool) -> dict[str, Any]:
        edited = caption.replace("blue", "red") if "blue" in caption else f"{caption}, in red"
        answer: Any = {"instruction": "make it red", "edited_caption": edited}
        content = json.dumps(answer)
        if "[malformed always]" in caption or ("[malformed once]" in caption and first):
            content = content[:-9]
        if "[wrong type once]" in caption and first:
            content = json.dumps({"instruction": ["make", "it"], "edited_caption": 3})
        if "[empty always]" in caption:
            content = json.dumps({"instruction": " ", "edited_caption": caption + " red"})
        return _completion(content)

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0.2")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def serve(handler: Any, log: Path) -> None:
    """Says on which port of this machine it listens, and answers until it is killed."""
    handler.log = log
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(_Handler, Path(sys.argv[1]))
