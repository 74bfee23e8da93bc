"""What tests of judges share: a chat server, and a scene reader."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.build.chat_server import ChatServer, chat_server
from tests.models.test_scene_reader import HUES, KINDS, small


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    with chat_server(tmp_path_factory.mktemp("chat") / "requests.jsonl") as server:
        yield server


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A scene reader that sees something in every picture."""
    parts = small()
    with torch.no_grad():
        parts.make(KINDS, HUES).head[-1].bias[0].fill_(4.0)
    folder = tmp_path_factory.mktemp("judge") / "reader"
    parts.save(folder)
    return str(folder)
