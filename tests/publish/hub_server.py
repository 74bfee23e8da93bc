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
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

USER = "tester"  # whose token it is
SECRET = "planted0secret0token"
TOKEN = f"hf_{SECRET}"


class Hub:
    """The state of the server: its folder, its token, what it was asked, and what is to go wrong.

    Attributes:
        private: repository -> whether only the token's owner may read it.
        requests: "VERB /path" of everything that was asked.
        fail_commit: a status that a commit is answered with, or "cut": half of its body is read, then the line is dead.
        large: whether weights are sent to the store of large files, which this server does not have, before the commit.
    """

    def __init__(self, root: Path, token: str) -> None:
        self.root = root
        self.token = token
        self.address = ""
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.fail_commit: int | str | None = None
        self.large = False

    def repo(self, name: str) -> Path:
        return self.root / name

    def make(self, name: str, private: bool = False) -> Path:
        self.private[name] = private
        self.repo(name).mkdir(parents=True)
        (self.repo(name) / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        return self.repo(name)

    def files(self, name: str) -> dict[str, bytes]:
        folder = self.repo(name)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    def commit(self, name: str) -> str:
        """The id of what is there now."""
        digest = hashlib.sha1(name.encode())
        for path, data in self.files(name).items():
            digest.update(path.encode() + b"\0" + data)
        return digest.hexdigest()


@contextmanager
def serving(root: Path, token: str) -> Iterator[Hub]:
    """Serves until the block ends."""
    hub = Hub(root, token)

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def _route(self) -> None:
        hub = self.state
        path = unquote(self.path.partition("?")[0])
        hub.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        if "/commit/" in path and self.command == "POST" and hub.fail_commit == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            return self.connection.close()
        body = self.rfile.read(length)
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {hub.token}") or (given is None and self.command == "POST"):
            return self._json({"error": "Invalid credentials in Authorization header"}, 401)
        if path == "/api/whoami-v2":
            return self._json({"name": USER, "type": "user", "orgs": []}, 200 if given else 401)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        path = re.sub(r"^(/api)?/datasets/", lambda found: "/api/models/" if found[1] else "/", path)  # one space of names here
        route = r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision|tree|refs)(?:/[^/]+)?(?:/(.*))?)?"
        if match := re.fullmatch(route, path):
            return self._repository(match.group(1), match.group(2) or "revision", match.group(3) or "", body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._resolve(match.group(1), match.group(2))
        return self._json({"error": f"no route {path}"}, 404)

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or USER
        name = f"{owner}/{wanted['name']}"
        if owner != USER:
            return self._json({"error": "You don't have the rights to create a model under this namespace"}, 403)
        place = "datasets/" * (wanted.get("type") == "dataset") + name
        answer = {"url": f"{self.state.address}/{place}", "name": name, "id": name}
        if name in self.state.private:
            return self._json({"error": "You already created this model repo", **answer}, 409)
        self.state.make(name, private=wanted.get("visibility") == "private")
        return self._json(answer)

    def _readable(self, name: str) -> bool:
        hub = self.state
        return name in hub.private and (not hub.private[name] or self.headers.get("Authorization") is not None)

    def _repository(self, name: str, what: str, folder: str, body: bytes) -> None:
        hub = self.state
        if not self._readable(name):
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if what == "preupload":
            return self._json({"files": [self._mode(file["path"]) for file in json.loads(body)["files"]]})
        if what == "commit":
            return self._commit(name, body)
        files = hub.files(name)
        if what == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": hub.commit(name)}
            return self._json({"branches": [branch], "converts": [], "tags": []})
        if what == "tree":
            return self._json(_tree(files, folder, "recursive=true" in self.path.lower()))
        siblings = [{"rfilename": f} for f in files]
        facts = {"id": name, "modelId": name, "sha": hub.commit(name), "private": hub.private[name], "tags": []}
        return self._json({**facts, "siblings": siblings, "library_name": "diffusers"})

    def _mode(self, path: str) -> dict[str, Any]:
        """A "regular" file comes inside the commit."""
        is_large = self.state.large and path.endswith(".safetensors")
        return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

    def _commit(self, name: str, body: bytes) -> None:
        hub = self.state
        if isinstance(hub.fail_commit, int):
            return self._json({"error": "the disk is full"}, hub.fail_commit)
        entries = [json.loads(line) for line in body.splitlines()]
        for entry in entries:
            path = hub.repo(name) / entry["value"].get("path", "")
            if entry["key"] == "deletedFile":
                path.unlink()
            elif entry["key"] == "file":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(entry["value"]["content"]))
        commit = hub.commit(name)
        url = f"{hub.address}/{name}/commit/{commit}"
        return self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, name: str, file: str) -> None:
        if not self._readable(name):
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        data = self.state.files(name).get(file)
        if data is None:
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": self.state.commit(name), "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(data, 200, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first > last:
            return self._send(b"", 416, {**headers, "Content-Range": f"bytes */{len(data)}"})
        return self._send(data[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _tree(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """What lies in a folder of a repository, with the folders in it; all the way down where that is asked for."""
    found: dict[str, dict[str, Any]] = {}
    for path, data in files.items():
        below = PurePosixPath(path).relative_to(folder).parts if PurePosixPath(path).is_relative_to(folder) else ()
        for depth in range(1, len(below)):
            place = str(PurePosixPath(folder, *below[:depth]))
            found[place] = {"type": "directory", "path": place, "size": 0, "oid": _oid(place.encode())}
        if below:
            found[path] = {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
    return [entry for at, entry in found.items() if recursive or str(PurePosixPath(at).parent) == (folder or ".")]


def _oid(data: bytes) -> str:
    """The id that git gives a file, which the Hub shows as its ETag."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
