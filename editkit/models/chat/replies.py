"""Replies of chat models, kept by what was asked: SQLite, so that a kill loses at most the reply that was being written."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import asdict
from pathlib import Path

from editkit.data.cache import cache_root
from editkit.errors import UserError
from editkit.models.chat.client import Reply


def replies_folder() -> Path:
    """Where replies and ledger lie: `chat/` in the cache folder."""
    folder = cache_root() / "chat"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Replies:
    """Used by several threads and processes; the first reply to a question stays."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: cannot be used as the cache of replies ({error}); move it away") from error

    def get(self, key: str) -> Reply | None:
        """What was replied; None where nobody has asked."""
        with self._lock:
            row = self._database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return Reply(**json.loads(row[0])) if row else None

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a reply, a useless one too: a build that goes on must come to the same."""
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, json.dumps(asdict(reply))))
