"""What a page gives out, takes in and leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file

from apps.page import FILES, serve
from editkit.errors import UserError
from tests.apps.conftest import free_port

ROOT = Path(__file__).parents[2]


def status_of(address: str, place: str) -> int:
    return httpx.get(f"{address}gradio_api/file={place}").status_code


@pytest.mark.parametrize(
    "place",
    [
        "/etc/passwd",
        "README.md",
        "../../../../etc/passwd",
        str(ROOT / "pyproject.toml"),
        f"{FILES}/../../etc/passwd",
        "%2Fetc%2Fpasswd",
        gr.__file__,
        "file:///etc/passwd",
    ],
    # The page's folder has a random name, and pytest's workers must agree on the names of the tests.
    ids=["absolute", "relative", "upwards", "ours", "out of its folder", "quoted", "a library's", "address"],
)
def test_it_serves_no_file_it_did_not_make(address: str, place: str) -> None:
    assert status_of(address, place) in (403, 404)
    assert httpx.get(f"{address}gradio_api/file/{place}").status_code in (403, 404)
    assert httpx.get(f"{address}file={place}").status_code in (403, 404)


def test_it_serves_what_it_made(address: str) -> None:
    example = next(FILES.rglob("example-1.png"))
    assert status_of(address, str(example)) == 200


def test_it_serves_no_file_of_another_gradio_program(address: str, tmp_path: Path) -> None:
    shared = Path(tempfile.gettempdir()) / "gradio" / f"editkit-test-{os.getpid()}"
    shared.mkdir(parents=True)
    other = shared / "other.txt"
    other.write_text("somebody else's")
    try:
        assert status_of(address, str(other)) == 403
    finally:
        other.unlink()
        shared.rmdir()


def test_it_fetches_no_address_for_others(address: str) -> None:
    for place in ("https://example.com/", "http://127.0.0.1:1/", "HTTPS://example.com/", "%68ttps://example.com"):
        for route in ("file=", "file/", "proxy="):
            answer = httpx.get(f"{address}gradio_api/{route}{place}")
            assert answer.status_code in (400, 403, 404), place
            if route == "file=" and "example" in place:
                assert answer.text == "not a file of this page", place


def test_uploads_are_limited(address: str) -> None:
    for mib, code in ((9, 200), (11, 413)):
        answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("big.png", b"\0" * (mib << 20))})
        assert answer.status_code == code


def test_it_answers_on_loopback_only(address: str) -> None:
    port = httpx.URL(address).port
    assert port is not None
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=5)  # the same machine by another address


def test_it_reports_nothing_and_keeps_no_record_of_runs(address: str) -> None:
    config = httpx.get(f"{address}config").json()
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert httpx.get(f"{address}gradio_api/runs").status_code == 404


def test_results_lie_in_a_folder_of_its_own(address: str, source: Path) -> None:
    client = Client(address, verbose=False)
    client.predict(handle_file(source), "make the hair red", 3.0, 1.5, 1, 0, api_name="/edit")
    assert any(FILES.rglob("make-the-hair-red.png"))
    assert FILES.stat().st_mode & 0o077 == 0  # nobody else on this machine may look


PROGRAM = """
import sys, gradio as gr
from apps.page import FILES, serve
(FILES / "x").write_text("x")
print(FILES, flush=True)
with gr.Blocks() as page:
    gr.Markdown("hello")
serve(page, "127.0.0.1", int(sys.argv[1]))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_folder_is_gone_when_the_program_ends(end: signal.Signals) -> None:
    program = [sys.executable, "-c", PROGRAM, str(free_port())]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        folder, line = Path(running.stdout.readline().strip()), running.stdout.readline()
        assert line.endswith(" (Ctrl-C ends)\n")
        assert httpx.get(line.split()[0]).status_code == 200
        assert (folder / "x").is_file()
        running.send_signal(end)
        assert running.wait(20) == 0
    assert not folder.exists()


def test_a_port_that_cannot_be_used_is_said(address: str) -> None:
    port = httpx.URL(address).port
    assert port is not None
    with gr.Blocks() as page:
        gr.Markdown("hello")
    for found in (port, 99_999):
        with pytest.raises(UserError, match=rf"found 127\.0\.0\.1:{found} in use or impossible"):
            serve(page, "127.0.0.1", found, block=False)
