"""A server on loopback that speaks the Hub's routes, keeps files on disk and wants a token."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The state of the server: its folder, its token, and what it was asked."""

    def __init__(self, root: Path, token: str) -> None:
        self.root = root
        self.token = token
        self.requests: list[str] = []
        self.fail_commit_with: int | None = None
        self.address = ""

    def repo(self, name: str) -> Path:
        return self.root / name

    def files(self, name: str) -> list[str]:
        return sorted(str(p.relative_to(self.repo(name))) for p in self.repo(name).rglob("*") if p.is_file())


@contextmanager
def serving(root: Path, token: str) -> Iterator[Hub]:
    """Serves until the block ends."""
    hub = Hub(root, token)

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def _route(self, verb: str) -> None:
        hub = self.state
        path = unquote(self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append(f"{verb} {path}")
        if verb == "POST" and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._json({"error": "Invalid credentials in Authorization header"}, 401)
        if path == "/api/whoami-v2":
            return self._json({"name": "tester", "type": "user", "orgs": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|revision|tree)/([^/]+).*", path):
            return self._repository(match.group(1), match.group(2), body)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            return self._repository(match.group(1), "revision", body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._resolve(verb, hub.repo(match.group(1)) / match.group(2))
        return self._json({"error": f"no route {path}"}, 404)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if wanted.get("organization") == "somebody-else":
            return self._json({"error": "You don't have the rights to create a model under this namespace"}, 403)
        self.state.repo(name).mkdir(parents=True, exist_ok=True)
        return self._json({"url": f"{self.state.address}/{name}", "name": name, "id": name})

    def _repository(self, name: str, what: str, body: bytes) -> None:
        folder = self.state.repo(name)
        if not folder.is_dir():
            return self._json({"error": "Repository not found"}, 404)
        if what == "preupload":
            asked = json.loads(body)["files"]
            return self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        if what == "commit":
            return self._commit(name, folder, body)
        siblings = [{"rfilename": f} for f in self.state.files(name)]
        if what == "tree":
            entries = [
                {"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": COMMIT} for f in self.state.files(name)
            ]
            return self._json(entries)
        return self._json({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})

    def _commit(self, name: str, folder: Path, body: bytes) -> None:
        if self.state.fail_commit_with is not None:
            return self._json({"error": "the disk is full"}, self.state.fail_commit_with)
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                path = folder / entry["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(entry["value"]["content"]))
        url = f"{self.state.address}/{name}/commit/{COMMIT}"
        return self._json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, verb: str, path: Path) -> None:
        if not path.is_file():
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        return self._send(data, 200, headers, verb == "HEAD")

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, data: bytes, status: int, headers: dict[str, str], head_only: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head_only and self.command != "HEAD":
            self.wfile.write(data)
