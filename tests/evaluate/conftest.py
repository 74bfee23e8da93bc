"""What tests of judges share: a chat server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.build.chat_server import ChatServer, chat_server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    with chat_server(tmp_path_factory.mktemp("chat") / "requests.jsonl") as server:
        yield server
