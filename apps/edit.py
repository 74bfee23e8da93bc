"""The editing page: a picture, an instruction, two sliders, before and after."""

from __future__ import annotations

import json
import random
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from PIL import Image

from apps.page import FILES, as_uploaded, latest_run, refusal, serve
from editkit.data.examples import EditPair
from editkit.data.pictures import Picture, PictureError
from editkit.data.prepare import PrepareParams, prepare
from editkit.evaluate.pictures import guidance_grid
from editkit.runs import RUNS

SHIPPED = "lab:tiny-edit"
METHOD = "instruct_edit"  # whose runs are editors
NUM_EXAMPLES, EXAMPLES_DRAWN, EXAMPLE_SEED = 6, 40, 77
MAX_SEED = 2**31 - 1
KEPT = 24  # edits in the history of a visitor
CRISP_BELOW = 256  # px; smaller pictures are shown with square pixels
MAX_INSTRUCTION = 300  # characters
GRID_FACTORS = (0.5, 1.0, 1.5)  # times the chosen text guidance
GRID_OFFSETS = (-0.5, 0.0, 0.5)  # from the chosen image guidance
GRID_CELL = 192  # px
PROGRESS = gr.Progress()  # gradio sees by this default that a function reports its steps
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}  # visitors take turns
# On a phone the result lies below the fold.
TO_RESULT = "(...a) => { document.getElementById('result').scrollIntoView({behavior: 'smooth', block: 'nearest'}); return a }"


class Editor(Protocol):
    """What the page needs of `editkit.models.editor`."""

    name: str
    defaults: dict[str, Any]
    describe: Callable[[], str]
    edit: Callable[..., list[Image.Image]]


@dataclass(frozen=True, slots=True)
class Made:
    """One edit of a visitor: the files and the settings that made one from the other."""

    source: str
    instruction: str
    text_guidance: float
    image_guidance: float
    steps: int
    seed: int
    result: str

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The values of the page's inputs, in their order."""
        return self.source, self.instruction, self.text_guidance, self.image_guidance, self.steps, self.seed

    @property
    def settings(self) -> str:
        """The numbers, in words; lines break between them only."""
        words = f"text {self.text_guidance:g},image {self.image_guidance:g},{self.steps} steps,seed {self.seed}"
        return words.replace(" ", "\N{NO-BREAK SPACE}").replace(",", ", ")


class Desk:
    """The functions behind the buttons. What a visitor made lives in the visitor's page, nothing of it here."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._side: int = editor.defaults["resolution"]

    def receive(self, path: str | None) -> str | None:
        """Shows an upload as the model will see it, or says why it cannot be used."""
        if path is None:
            return None
        try:
            return _save(self._square(Picture(path=path, label=Path(path).name).open()), Path(path).stem)
        except PictureError as error:
            gr.Warning(f"{error}. Choose another picture.", duration=8)
            return None

    def edit(
        self,
        path: str | None,
        instruction: str,
        text_guidance: float,
        image_guidance: float,
        steps: int,
        seed: int | None,
        history: list[Made],
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        """Edits the picture; returns what `_shown` does, and the history with the new edit in front, in three forms."""
        source = self._source(path, instruction)
        started = time.perf_counter()
        edited = self._editor.edit(
            [source],
            [instruction],
            text_guidance=text_guidance,
            image_guidance=image_guidance,
            steps=int(steps),
            seed=int(seed or 0),
            progress=lambda done, total: progress((done, total), desc="Editing", unit="steps"),
        )[0]
        seconds = time.perf_counter() - started
        made = Made(
            _save(source, "source"), instruction, text_guidance, image_guidance, int(steps), int(seed or 0),
            _save(edited, instruction),
        )  # fmt: skip
        history = [made, *history][:KEPT]
        gallery = [(m.result, f"{m.instruction}\n{m.settings}") for m in history]
        return *_shown(made, f"{seconds:.1f} s"), gallery, _archive(history), history

    def grid(
        self,
        path: str | None,
        instruction: str,
        text_guidance: float,
        image_guidance: float,
        steps: int,
        seed: int | None,
        progress: gr.Progress = PROGRESS,
    ) -> Image.Image:
        """Edits of the picture for text and image guidance around the chosen values."""
        source = self._source(path, instruction)
        texts = sorted({max(1.0, round(text_guidance * factor, 2)) for factor in GRID_FACTORS})
        images = sorted({max(1.0, round(image_guidance + offset, 2)) for offset in GRID_OFFSETS})
        cells = [(image, text) for image in images for text in texts]

        def cell(number: int) -> Image.Image:
            return self._editor.edit(
                [source],
                [instruction],
                text_guidance=cells[number][1],
                image_guidance=cells[number][0],
                steps=int(steps),
                seed=int(seed or 0),
                progress=lambda done, total: progress(
                    (number * total + done, len(cells) * total), desc="Drawing the grid", unit="steps"
                ),
            )[0]

        drawn = [cell(number) for number in range(len(cells))]
        rows = [drawn[start : start + len(texts)] for start in range(0, len(drawn), len(texts))]
        return guidance_grid(rows, texts, images, source, instruction, scale=max(1, GRID_CELL // self._side))

    def _source(self, path: str | None, instruction: str) -> Image.Image:
        """The picture as the model sees it, once both inputs are known to be there."""
        if not path:
            raise refusal("Choose a picture first: upload one or pick an example.")
        if not instruction.strip():
            raise refusal('Say what to do, such as "make the hair red".')
        if len(instruction) > MAX_INSTRUCTION:
            raise refusal(f"Found an instruction of {len(instruction)} characters; expected {MAX_INSTRUCTION} at most.")
        try:
            return self._square(Picture(path=path, label=Path(path).name).open())
        except PictureError as error:
            raise refusal(str(error)) from error

    def _square(self, image: Image.Image) -> Image.Image:
        pixels_CHW = prepare([image], PrepareParams(self._side))[0]
        return Image.fromarray(pixels_CHW.permute(1, 2, 0).numpy())


def _save(image: Image.Image, words: str) -> str:
    """Writes a picture into the page's folder, under a name that says what it is."""
    stem = "-".join("".join(c if c.isalnum() else " " for c in words.lower()).split())[:48].strip("-")
    path = Path(tempfile.mkdtemp(dir=FILES)) / f"{stem or 'edit'}.png"
    image.save(path)
    return str(path)


def _archive(history: Sequence[Made]) -> str:
    """All edits of a visitor and their settings in one file."""
    path = Path(tempfile.mkdtemp(dir=FILES)) / "edits.zip"
    with zipfile.ZipFile(path, "w") as archive:
        settings = []
        for number, made in enumerate(reversed(history), 1):
            names = {role: f"{number:02d}-{Path(getattr(made, role)).name}" for role in ("source", "result")}
            for role, name in names.items():
                archive.write(getattr(made, role), name)
            settings.append({**asdict(made), **names})
        archive.writestr("settings.json", json.dumps(settings, indent=1))
    return str(path)


def _shown(made: Made, remark: str = "") -> tuple[Any, ...]:
    """Before and after, the line below them, the download, and the edit itself."""
    return (made.source, made.result), ", ".join(filter(None, [made.settings, remark])), made.result, made


def _restore(history: list[Made], event: gr.SelectData) -> tuple[Any, ...]:
    made = history[event.index]
    return *made.inputs, *_shown(made)


def build_demo(editor: Editor, *, examples: Sequence[EditPair] = ()) -> gr.Blocks:
    """The page.

    Args:
        editor: what edits.
        examples: pictures to pick from, each with its instruction; the first is there when the page opens.
    """
    desk = Desk(editor)
    crisp = "crisp" if editor.defaults["resolution"] < CRISP_BELOW else ""
    with gr.Blocks(title="editkit", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(f"# Edit a picture with words\n{editor.describe()}", elem_id="title")
        with gr.Row(equal_height=False, elem_classes=crisp):
            with gr.Column(scale=4, min_width=280):
                inputs, triggers = _ask(desk, editor.defaults, examples)
            with gr.Column(scale=5, min_width=280):
                _answer(desk, inputs, triggers)
        with gr.Accordion("Guidance grid", open=False, elem_id="grid-box"):
            gr.Markdown("The same edit with less and more of both guidances. Rows: image; columns: text.", elem_classes="quiet")
            draw = gr.Button("Draw the grid around the chosen values", size="md", elem_id="draw-grid")
            grid = gr.Image(
                format="png", show_label=False, interactive=False, buttons=["download", "fullscreen"],
                elem_id="grid", elem_classes="wide",
            )  # fmt: skip
        draw.click(desk.grid, inputs, grid, api_name="grid", **MODEL)
    return page


def _ask(desk: Desk, defaults: dict[str, Any], examples: Sequence[EditPair]) -> tuple[list[gr.Component], list[Any]]:
    """The left side: the picture, the words and the settings; returns them and what starts an edit."""
    files = [desk.receive(_save(e.source.open(), f"example {i}")) for i, e in enumerate(examples, 1)]
    words = [e.instructions[0] for e in examples]
    side = defaults["resolution"]
    picture = gr.Image(
        files[0] if files else None, type="filepath", label=f"Picture, as the model sees it ({side} × {side})",
        sources=["upload", "clipboard"], buttons=[], height=380, elem_id="picture", elem_classes="filled",
    )  # fmt: skip
    as_uploaded(picture)
    picture.upload(desk.receive, picture, picture, show_progress="hidden", api_visibility="private")
    pictures = gr.Dataset(
        components=["image"], samples=[[f] for f in files], type="index", label="Pictures to try", visible=bool(files),
        elem_id="examples", elem_classes="thumbs",
    )  # fmt: skip
    instruction = gr.Textbox(
        words[0] if words else "", label="Instruction", placeholder="make the hair red", max_length=MAX_INSTRUCTION,
        elem_id="instruction",
    )  # fmt: skip
    chips = gr.Dataset(
        components=["textbox"], samples=[[w] for w in words], type="index", label="Instructions to try", visible=bool(words),
        elem_id="instructions", elem_classes="chips",
    )  # fmt: skip
    pictures.click(lambda i: (files[i], words[i]), pictures, [picture, instruction], api_visibility="private")
    chips.click(lambda i: words[i], chips, instruction, api_visibility="private")
    run = gr.Button("Edit", variant="primary", size="lg", elem_id="run")
    text = gr.Slider(
        1, max(12, defaults["text_guidance"]), defaults["text_guidance"], step=0.1, label="Text guidance",
        info="How strongly the instruction counts", elem_id="text-guidance",
    )  # fmt: skip
    image = gr.Slider(
        1, max(3, defaults["image_guidance"]), defaults["image_guidance"], step=0.05, label="Image guidance",
        info="How strongly the picture is kept", elem_id="image-guidance",
    )  # fmt: skip
    with gr.Row():
        steps = gr.Slider(
            1, max(50, defaults["steps"]), defaults["steps"], step=1, label="Steps", min_width=120, elem_id="steps"
        )
        new_seed = gr.Button("New seed", size="sm", render=False)
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, buttons=[new_seed], min_width=120, elem_id="seed"
        )
    new_seed.click(lambda: random.randint(0, MAX_SEED), None, seed, api_visibility="private")
    return [picture, instruction, text, image, steps, seed], [run.click, instruction.submit]


def _answer(desk: Desk, inputs: list[gr.Component], triggers: list[Any]) -> None:
    """The right side: before and after, what to do with it, and the history."""
    history, shown = gr.State([]), gr.State(None)
    slider = gr.ImageSlider(
        label="Before and after", interactive=False, buttons=["fullscreen"], max_height=640, elem_id="result",
        elem_classes="filled",
    )  # fmt: skip
    line = gr.Markdown("The edit will stand here.", elem_id="line", elem_classes="quiet")
    with gr.Row():
        go_on = gr.Button("Use as next picture", size="md", min_width=140, interactive=False, elem_id="go-on")
        download = gr.DownloadButton("Download PNG", size="md", min_width=140, interactive=False, elem_id="download")
    gallery = gr.Gallery(
        label="History: pick one to go back to it", columns=5, height="auto", allow_preview=False, fit_columns=False,
        buttons=[], interactive=False, visible=False, elem_id="history", elem_classes="captions",
    )  # fmt: skip
    archive = gr.DownloadButton("Download the history (zip)", size="sm", visible=False, elem_id="archive")
    view = [slider, line, download, shown]
    made = [*view, gallery, archive, history]
    edited = gr.on(
        triggers, desk.edit, [*inputs, history], made, show_progress_on=slider, js=TO_RESULT, api_name="edit", **MODEL
    )
    edited.success(
        lambda: (gr.Button(interactive=True), gr.Button(interactive=True), gr.Gallery(visible=True), gr.Button(visible=True)),
        None, [go_on, download, gallery, archive], api_visibility="private",
    )  # fmt: skip
    gallery.select(_restore, history, [*inputs, *view], api_visibility="private")
    go_on.click(lambda made: made.result, shown, inputs[0], api_visibility="private")


def launch(run: str | None, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Loads an editor and serves the page until Ctrl-C.

    Args:
        run: a run, lab:NAME, a folder or a Hub id; None = the latest finished editing run, or else the shipped editor.
        host: address to listen on; only this machine unless told otherwise.
        port: port to listen on.
    """
    from editkit.lab.avatar_edits import sample_edits
    from editkit.models.editor import load_editor
    from editkit.models.precision import choose_device

    which, why = (run, "as asked") if run else default_editor()
    editor = load_editor(which, device=choose_device())
    print(f"loaded {editor.describe()} ({why})", flush=True)
    drawn = sample_edits(EXAMPLES_DRAWN, seed=EXAMPLE_SEED, split="test", size=editor.defaults["resolution"])
    serve(build_demo(editor, examples=varied(drawn, NUM_EXAMPLES)), host, port)


def varied(pairs: Sequence[EditPair], count: int) -> list[EditPair]:
    """The `count` pairs of the most different kinds, none that asks for no change; in their order."""
    seen: Counter[str] = Counter()
    ranked = []
    for number, pair in enumerate(pairs):
        if pair.category != "keep":
            ranked.append((seen[pair.category], number))
            seen[pair.category] += 1
    return [pairs[number] for _, number in sorted(ranked)[:count]]


def default_editor() -> tuple[str, str]:
    """What is loaded when nothing is asked for, and why."""
    found = latest_run(METHOD)
    if found is not None:
        return found, "the latest finished editing run"
    return SHIPPED, f"shipped with editkit; no finished editing run in {RUNS}/"
