"""The editing page: a picture, an instruction, two sliders, before and after."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from PIL import Image

from editkit.data.examples import EditPair
from editkit.data.pictures import Picture
from editkit.data.prepare import PrepareParams, prepare
from editkit.errors import UserError
from editkit.evaluate.pictures import enlarge, guidance_grid

MAX_UPLOAD = "10mb"
SHOWN_SIDE = 512  # px to which small pictures are enlarged, pixel by pixel
GRID_FACTORS = (0.5, 1.0, 1.5)  # of the chosen text guidance
GRID_OFFSETS = (-0.5, 0.0, 0.5)  # from the chosen image guidance
DEFAULT_EDITOR = "lab:tiny-edit"

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#title { margin-bottom: 0; } #title p { color: var(--body-text-color-subdued); }
img { image-rendering: pixelated; }
footer { display: none !important; }
"""


class Editor(Protocol):
    """What the page needs of `editkit.models.editor`."""

    name: str
    defaults: dict[str, Any]
    describe: Callable[[], str]
    edit: Callable[..., list[Image.Image]]


class Session:
    """The functions behind the buttons. All state of a visitor lives in the page, none here."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._side = editor.defaults["resolution"]

    def edit(
        self,
        path: str | None,
        instruction: str,
        text: float,
        image: float,
        steps: int,
        seed: int,
        history: list[dict[str, Any]],
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds the progress bar by this default
    ) -> tuple[Any, Any, Any, list[dict[str, Any]], str]:
        """Edits the picture; returns before/after, the gallery, the download, the history and a line of status."""
        source = self._open(path)
        self._check(instruction)
        started = time.perf_counter()
        edited = self._editor.edit(
            [source], [instruction], text_guidance=text, image_guidance=image, steps=int(steps), seed=int(seed),
            progress=lambda done, total: progress((done, total), desc="editing", unit="steps"),
        )[0]  # fmt: skip
        seconds = time.perf_counter() - started
        record = {
            "path": path, "result": _temporary(edited, instruction), "instruction": instruction, "text": text, "image": image,
            "steps": steps, "seed": seed,
        }  # fmt: skip
        history = [record, *history]
        before = self._shown(source)
        return (
            (before, _shown(edited)),
            _gallery(history),
            record["result"],
            history,
            f"{seconds:.1f} s, seed {int(seed)}",
        )

    def grid(
        self,
        path: str | None,
        instruction: str,
        text: float,
        image: float,
        steps: int,
        seed: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Image.Image:
        """Edits of the picture for text and image guidance around the chosen values."""
        source = self._open(path)
        self._check(instruction)
        texts = sorted({max(1.0, round(text * f, 2)) for f in GRID_FACTORS})
        images = sorted({max(1.0, round(image + o, 2)) for o in GRID_OFFSETS})
        rows = []
        for number, image_scale in enumerate(images):
            progress((number, len(images)), desc="guidance grid", unit="rows")
            rows.append(
                [
                    self._editor.edit(
                        [source],
                        [instruction],
                        text_guidance=t,
                        image_guidance=image_scale,
                        steps=int(steps),
                        seed=int(seed),
                    )[0]
                    for t in texts
                ]
            )
        square = self._square(source)
        return guidance_grid(rows, texts, images, square, instruction, scale=max(1, 192 // self._side))

    def _open(self, path: str | None) -> Image.Image:
        if not path:
            raise gr.Error("Choose a picture first: upload one or pick an example.", print_exception=False)
        try:
            return Picture(path=path, label=Path(path).name).open()
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _check(self, instruction: str) -> None:
        if not instruction.strip():
            raise gr.Error('Say what to do, such as "make the hair red".', print_exception=False)

    def _square(self, image: Image.Image) -> Image.Image:
        pixels = prepare([image], PrepareParams(self._side))[0]
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())

    def _shown(self, image: Image.Image) -> Image.Image:
        return _shown(self._square(image))


def _shown(image: Image.Image) -> Image.Image:
    return enlarge(image, max(1, SHOWN_SIDE // image.width))


def _temporary(image: Image.Image, instruction: str) -> str:
    """Writes a result where gradio may serve it from, under a name that says what it is."""
    stem = "".join(c if c.isalnum() else "-" for c in instruction.lower())[:40].strip("-") or "edit"
    folder = Path(tempfile.mkdtemp(prefix="editkit-"))
    image.save(folder / f"{stem}.png")
    return str(folder / f"{stem}.png")


def _gallery(history: Sequence[dict[str, Any]]) -> list[tuple[Image.Image, str]]:
    shown = []
    for record in history:
        caption = f"{record['instruction']} (text {record['text']:g}, image {record['image']:g}, seed {int(record['seed'])})"
        shown.append((_shown(Image.open(record["result"])), caption))
    return shown


def _restore(history: list[dict[str, Any]], event: gr.SelectData) -> tuple[Any, ...]:
    record = history[event.index]
    return record["path"], record["instruction"], record["text"], record["image"], record["steps"], record["seed"]


def _use_result(history: list[dict[str, Any]]) -> str:
    if not history:
        raise gr.Error("There is no result yet; edit a picture first.", print_exception=False)
    return history[0]["result"]


def build_demo(editor: Editor, *, examples: Sequence[EditPair] = ()) -> gr.Blocks:
    """The page.

    Args:
        editor: what edits.
        examples: pictures to pick from, each with its instruction.
    """
    session = Session(editor)
    defaults = editor.defaults
    files = [_temporary(e.source.open(), f"example {i}") for i, e in enumerate(examples)]
    with gr.Blocks(title="editkit", analytics_enabled=False) as page:
        history = gr.State([])
        gr.Markdown(f"# Edit a picture\n{editor.describe()}", elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column():
                picture = gr.Image(
                    type="filepath", label="Picture", sources=["upload", "clipboard"], height=300, elem_id="picture"
                )
                # Gradio would open the file itself and answer a bad one with a stack of its own words; ours says what is wrong.
                picture.preprocess = lambda payload: payload.path if payload is not None else None
                instruction = gr.Textbox(label="Instruction", placeholder="make the hair red", elem_id="instruction")
                run = gr.Button("Edit", variant="primary", elem_id="run")
                text = gr.Slider(
                    1,
                    12,
                    defaults["text_guidance"],
                    step=0.1,
                    label="Text guidance: how strongly the instruction counts",
                )
                image = gr.Slider(
                    1, 3, defaults["image_guidance"], step=0.05, label="Image guidance: how strongly the picture counts"
                )
                with gr.Row():
                    steps = gr.Slider(1, 50, defaults["steps"], step=1, label="Steps")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                    new_seed = gr.Button("New seed", size="sm")
                if files:
                    gr.Examples([[f, e.instructions[0]] for f, e in zip(files, examples, strict=True)], [picture, instruction])
            with gr.Column():
                slider = gr.ImageSlider(label="Before and after", interactive=False, elem_id="result", height=512)
                status = gr.Markdown(elem_id="status")
                with gr.Row():
                    download = gr.DownloadButton("Download PNG", elem_id="download", size="sm")
                    again = gr.Button("Use the result as the next picture", size="sm", elem_id="again")
                gallery = gr.Gallery(label="History: click to restore its settings", columns=4, height=180, elem_id="history")
                with gr.Accordion("Guidance grid", open=False):
                    draw_grid = gr.Button("Draw the grid around the chosen values", size="sm", elem_id="draw-grid")
                    grid = gr.Image(label="Rows: image guidance, columns: text guidance", interactive=False, elem_id="grid")
        inputs = [picture, instruction, text, image, steps, seed]
        outputs = [slider, gallery, download, history, status]
        for trigger in (run.click, instruction.submit):
            trigger(session.edit, [*inputs, history], outputs, api_name="edit", concurrency_id="model", concurrency_limit=1)
        draw_grid.click(session.grid, inputs, grid, api_name="grid", concurrency_id="model", concurrency_limit=1)
        new_seed.click(lambda: random.randrange(2**31), None, seed, api_visibility="private")
        gallery.select(_restore, history, inputs, api_visibility="private")
        again.click(_use_result, history, picture, api_visibility="private")
    return page


def launch(run: str | None, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Loads an editor and serves the page until Ctrl-C.

    Args:
        run: a run, lab:NAME, a folder or a Hub id; None = the shipped editor.
        host: address to listen on; only this machine unless told otherwise.
        port: port to listen on.
    """
    from editkit.lab.avatar_edits import sample_edits
    from editkit.models.editor import load_editor

    editor = load_editor(run or DEFAULT_EDITOR)
    print(f"loaded {editor.describe()}; Ctrl-C ends")
    examples = sample_edits(6, seed=77, split="test", size=max(64, editor.defaults["resolution"]))
    serve(build_demo(editor, examples=examples), host, port)


def serve(page: gr.Blocks, host: str, port: int, *, block: bool = True) -> Any:
    """Serves a page: nothing but its own files, uploads up to `MAX_UPLOAD`, one edit at a time."""
    try:
        return page.queue(default_concurrency_limit=1, max_size=32).launch(
            server_name=host, server_port=port, share=False, max_file_size=MAX_UPLOAD, prevent_thread_lock=not block,
            quiet=not block, allowed_paths=[], footer_links=[], css=CSS, theme=_theme(), show_error=True,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"port {port} on {host} cannot be used ({error}); choose another with --port") from error


def _theme() -> gr.Theme:
    return gr.themes.Soft(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["monospace"],
    )
