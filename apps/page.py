"""What the pages share: the look, the private folder for their files, and how they are served.

A page fetches nothing from the network, reports nothing to anybody, keeps its files in a folder that it empties when it
ends, and gives out no others.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import tempfile
from html import escape
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from editkit.errors import UserError
from editkit.runs import RUNS

FILES = Path(tempfile.mkdtemp(prefix="editkit-demo-"))
atexit.register(shutil.rmtree, FILES, ignore_errors=True)
# Gradio reads these when it builds a page. Its own default is one folder for all its programs, and whatever lies there can
# be fetched.
os.environ["GRADIO_TEMP_DIR"] = str(FILES)
os.environ["GRADIO_EXAMPLES_CACHE"] = str(FILES / "examples")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

MAX_UPLOAD = "10mb"
MAX_WAITING = 32  # visitors in the queue before a new one is told to come back
REMOTE_FILE = re.compile(r"/file[=/]\W*https?:", re.IGNORECASE)

CSS = """
.gradio-container { width: 100%; max-width: 1100px !important; margin: 0 auto !important; }
.gradio-container > .main { padding: 28px 20px 48px !important; }
footer { display: none !important; }
#title h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -0.02em; line-height: 1.2; margin: 0 0 4px; }
#title p, .quiet p { color: var(--body-text-color-subdued); margin: 0; }
label[data-testid="block-label"] {
    position: static !important; border: 0 !important; box-shadow: none !important; padding: 8px 12px !important;
    font-size: var(--block-title-text-size);
}
label[data-testid="block-label"] > span, .thumbs .label svg, .chips .label svg { display: none; }
.crisp img { image-rendering: pixelated; }
.filled img { width: 100%; height: 100%; object-fit: contain; }
.filled > .image-container { height: calc(100% - 38px); }
.filled .upload-container { padding: 0 10px 8px; }
.thumbs .gallery { display: grid; grid-template-columns: repeat(6, 1fr); gap: 8px; }
.thumbs .gallery-item { aspect-ratio: 1; padding: 0; }
.thumbs .gallery-item * { display: block; width: 100% !important; height: 100% !important; }
.captions { min-height: 0 !important; }
.captions .grid-wrap { min-height: 0 !important; max-height: 420px !important; padding: 0 12px 12px !important; }
.captions .grid-container {
    grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)) !important; padding: 0 !important; align-items: start;
}
.captions .thumbnail-item { height: auto !important; aspect-ratio: auto !important; background: none; }
.captions .thumbnail-item img { aspect-ratio: 1; height: auto !important; }
.captions .caption-label {
    position: static; display: block; max-width: none; white-space: pre-line; text-align: left; padding: 6px 8px; border: 0;
    font-size: 0.72rem; line-height: 1.35; background: none; color: var(--body-text-color-subdued);
}
.wide .image-container { overflow-x: auto; width: 0; min-width: 100% !important; }
.wide .image-frame, .wide button:has(img) { justify-content: safe center; }
.wide img { min-width: 620px; }
[data-testid="status-tracker"]:has(> .error) { display: none !important; }
#result { min-height: 380px; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr)); gap: 14px; }
.strip .card {
    display: flex; flex-direction: column; gap: 6px; padding: 10px;
    overflow-wrap: anywhere; font-size: 0.86rem; line-height: 1.4;
    border: 1px solid var(--block-border-color); border-radius: 12px; background: var(--block-background-fill);
}
.strip .card p, .strip .card ul { margin: 0; }
.strip .card ul { padding-left: 18px; list-style: disc; }
.strip header { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; font-weight: 550; }
.strip .mark, .strip .by-hand {
    padding: 0 7px; border-radius: 9px; font-size: 0.72rem; font-weight: 500; white-space: nowrap;
    background: var(--neutral-200); color: var(--neutral-800);
}
.strip .mark.final { background: var(--primary-700); color: white; }
.strip .by-hand { background: var(--primary-100); color: var(--primary-900); }
.strip img { width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px; margin: 0; }
.strip img.crisp { image-rendering: pixelated; }
.strip .empty {
    display: grid; place-items: center; aspect-ratio: 1; border: 1px dashed var(--block-border-color); border-radius: 6px;
    color: var(--body-text-color-subdued);
}
.strip .going { border-color: var(--primary-600); }
.strip .ins { font-weight: 550; }
.strip .des, .strip .quiet-line, .asked { color: var(--body-text-color-subdued); }
.strip .odd { font-family: var(--font-mono); font-size: 0.78rem; max-height: 12em; overflow-y: auto; }
.strip .said { padding-left: 8px; border-left: 3px solid var(--block-border-color); display: grid; gap: 4px; }
.strip .good { border-color: #1d7a3e; }
.strip .bad { border-color: #b3261e; }
.asked { margin: 0 0 10px; }
#line .html-container, #strip .html-container { padding: 0; }
.dark input[type="range"] { --neutral-200: var(--neutral-700); }
@media (max-width: 640px) { .gradio-container > .main { padding: 18px 12px 32px !important; } }
"""


def latest_run(method: str) -> str | None:
    """The finished run of a method that was started last; None = there is none."""
    finished = []
    for file in RUNS.glob("*/run.json"):
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts.get("method") == method and facts.get("state") == "done":
            finished.append((facts.get("started", ""), str(file.parent)))
    return max(finished)[1] if finished else None


def theme() -> gr.Theme:
    """Paper and ink with one accent; system fonts, since the page may have no network to fetch others."""
    look = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=["system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return look.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_border_width="1px",
        button_border_width="1px",
        button_border_width_dark="1px",
        color_accent="*primary_700",
        loader_color="*primary_700",
        loader_color_dark="*primary_400",
        block_label_text_color="*neutral_500",
        block_label_text_color_dark="*neutral_400",
        block_title_text_weight="550",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_200",
        button_secondary_border_color_dark="*neutral_700",
        button_large_text_weight="550",
        button_medium_text_weight="500",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
    )


def as_uploaded(picture: gr.Image) -> gr.Image:
    """Passes uploads on as they came, unopened: what is wrong with a picture is for `Picture` to say, not for gradio.

    An address in place of a file is refused, for no limit would hold for what lies there. (Set on the component itself:
    gradio writes a stub file beside every module that has a subclass of a component.)
    """
    keep_file = picture.async_move_resource_to_block_cache

    async def keep(url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).lower().startswith(("http:", "https:")):
            raise refusal("Found an address; expected a picture file. Save the picture and upload it.")
        return await keep_file(url_or_file_path)

    picture.preprocess = lambda payload: payload.path if payload is not None else None
    picture.async_move_resource_to_block_cache = keep
    return picture


class _NoRemoteFiles:
    """Gradio's file route also fetches addresses for whoever asks; ours gives out its own files only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = scope["type"] == "http" and REMOTE_FILE.search(scope["path"])
        await (PlainTextResponse("not a file of this page", 403) if refused else self._app)(scope, receive, send)


def refusal(message: str) -> gr.Error:
    """A message for the visitor, who can do something about it; nothing goes to the log. Gradio would show it as markup."""
    return gr.Error(escape(message, quote=False), duration=8, print_exception=False)


def serve(page: gr.Blocks, host: str, port: int, *, block: bool = True) -> str:
    """Serves a page: nothing but its own files, uploads up to `MAX_UPLOAD`, one job at a time.

    Args:
        page: what to serve.
        host: address to listen on.
        port: port to listen on.
        block: wait until Ctrl-C; otherwise return at once, and the caller closes the page.

    Returns:
        The address of the page.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        _, url, _ = page.queue(default_concurrency_limit=1, max_size=MAX_WAITING).launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=MAX_UPLOAD,
            allowed_paths=[],
            blocked_paths=[],
            app_kwargs={"middleware": [Middleware(_NoRemoteFiles)]},
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            theme=theme(),
            css=CSS,
            quiet=True,
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:
        raise UserError(f"found {host}:{port} in use or impossible; choose another with --port or --host") from error
    if block:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended empties the folder as Ctrl-C does
        print(f"{url} (Ctrl-C ends)", flush=True)
        page.block_thread()
    return url
