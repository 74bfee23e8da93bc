"""The page of pairs: what is in a data set, what is wrong with it, and what to do about it, one key for each decision."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from apps.page import FILES, refusal, serve
from editkit.data.browse import ALL, ANY_FINDING, NO_FINDING, STATES, Shelf, Wanted
from editkit.data.decisions import Decision, Decisions, Verdict, log_of
from editkit.data.doctor.findings import KINDS
from editkit.data.examples import EditPair
from editkit.data.pictures import Picture, PictureError
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.evaluate.pictures import difference

SPLITS = ("train", "test")
MAX_INSTRUCTION = 600  # characters
CRISP_BELOW = 256  # px; smaller pictures are shown with square pixels
AMPLIFIED = 4  # times, of the difference
EVERYTHING, BY_ORDER = "everything", "as they lie"
KEYS = {
    "ArrowRight": "next", "ArrowLeft": "previous", "a": "accept", "r": "reject", "u": "undo",
}  # fmt: skip
KEYBOARD = (
    "() => { const keys = " + str(KEYS) + ";"
    """
    document.addEventListener('keydown', event => {
        const typing = ['INPUT', 'TEXTAREA'].includes(event.target.tagName);
        if (typing) {
            if (event.key === 'Escape') event.target.blur();
            if (event.key === 'Enter' && event.ctrlKey) document.querySelector('#rewrite').click();
            return;
        }
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        if (event.key === 'e') { event.preventDefault(); document.querySelector('#instruction textarea').focus(); }
        const button = document.getElementById(keys[event.key]);
        if (button) { event.preventDefault(); button.click(); }
    }) }"""
)
HELP = (
    "Keys: → next, ← previous, **a** accept, **r** reject, **u** undo, **e** edit the instruction, Ctrl+Enter saves it, "
    "Esc leaves it"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a visitor is: which examples are chosen, and which of them is shown."""

    split: str
    wanted: Wanted
    numbers: Any  # of the chosen examples, in their order
    at: int = 0


class Table:
    """The functions behind the buttons. A visitor's place lives in the visitor's page, decisions in the log."""

    def __init__(self, shelves: dict[str, Shelf], name: str) -> None:
        self.shelves, self.name = shelves, name
        self.decisions = next(iter(shelves.values())).decisions

    def choose(self, split: str, category: str, finding: str, state: str, order: str) -> tuple[Any, ...]:
        """Chooses anew and shows the first."""
        shelf = self.shelves[split]
        score, _, end = order.rpartition(", ")
        wanted = Wanted(
            category if category in (ALL, *shelf.categories) else ALL,
            ALL if finding == EVERYTHING else finding,
            state,
            score if score in shelf.scores else "",
            end == "highest first",
        )
        return self.show(Seen(split, wanted, shelf.find(wanted)))

    def step(self, seen: Seen, by: int) -> tuple[Any, ...]:
        """Shows the one before or behind; stays at the ends."""
        return self.show(_at(seen, seen.at + by))

    def go_to(self, seen: Seen, asked: str) -> tuple[Any, ...]:
        """Shows the example with this key or number, if it is among the chosen ones, else out of all."""
        shelf = self.shelves[seen.split]
        number = shelf.number_of(asked)
        if number is None:
            expected = f"the key of an example of {seen.split}, or a number up to {len(shelf.dataset):,}"
            raise refusal(f'Found "{asked[:80]}"; expected {expected}.')
        places = (seen.numbers == number).nonzero()[0]
        if not len(places):
            everything = Wanted()
            seen, places = Seen(seen.split, everything, shelf.find(everything)), [number]
        return self.show(_at(seen, int(places[0])))

    def decide(self, seen: Seen, verdict: Verdict) -> tuple[Any, ...]:
        """Writes the verdict down and goes to the next."""
        pair = self._pair(seen)
        before = self.decisions.of(seen.split, pair.key)
        self._write(Decision(seen.split, pair.key, verdict, before.instruction))
        return self.show(_at(seen, seen.at + 1))

    def rewrite(self, seen: Seen, instruction: str) -> tuple[Any, ...]:
        """Writes down other words for the pair, which accepts it, and stays there."""
        pair, said = self._pair(seen), " ".join(instruction.split())
        if not said:
            raise refusal("Found no words; write what is to change, or reject the pair.")
        if len(said) > MAX_INSTRUCTION:
            raise refusal(f"Found {len(said)} characters; expected {MAX_INSTRUCTION} at most.")
        same = said == (pair.instructions[0] if pair.instructions else "")
        self._write(Decision(seen.split, pair.key, "accepted", "" if same else said))
        return self.show(seen)

    def undo(self, seen: Seen) -> tuple[Any, ...]:
        """Takes back what was decided about the pair that is shown."""
        self._write(Decision(seen.split, self._pair(seen).key))
        return self.show(seen)

    def show(self, seen: Seen) -> tuple[Any, ...]:
        """What depends on the place: before and after, difference, mask, words, facts, the line above, and the place itself."""
        count = len(seen.numbers)
        tally = ", ".join(f"{n:,} {what}" for what, n in sorted(self.decisions.counts().items()) if n) or "nothing decided yet"
        if not count:
            return None, None, None, "", "No example of this kind.", f"0 chosen · {tally}", seen
        pair, number = self._pair(seen), int(seen.numbers[seen.at])
        decision = self.decisions.of(seen.split, pair.key)
        source, target = _open(pair.source), _open(pair.target)
        unreadable = [role for role, image in (("source", source), ("target", target)) if image is None]
        words = decision.instruction or (pair.instructions[0] if pair.instructions else "")
        place = f"**{seen.at + 1:,}** of {count:,} chosen · {tally}"
        return (
            (_save(source, "source"), _save(target, "target")) if source and target else None,
            difference(source, target, AMPLIFIED) if source and target else None,
            _open(pair.mask),
            words,
            self._facts(pair, seen.split, number, decision, unreadable),
            place,
            seen,
        )

    def _pair(self, seen: Seen) -> EditPair:
        if not len(seen.numbers):
            raise refusal("No example of this kind is shown; choose others first.")
        return self.shelves[seen.split].dataset[int(seen.numbers[seen.at])]

    def _write(self, decision: Decision) -> None:
        try:
            self.decisions.add(decision)
        except OSError as error:
            raise refusal(f"{self.decisions.path} cannot be written ({error.strerror}); nothing was decided.") from error

    def _facts(self, pair: EditPair, split: str, number: int, decision: Decision, unreadable: Sequence[str]) -> str:
        said = {"open": "undecided"}.get(decision.verdict, decision.verdict)
        lines = [f"**{said}**{' · instruction rewritten' if decision.instruction else ''}"]
        lines.append(f"`{_plain(pair.key)}` · number {number + 1:,} of {split} · {_plain(pair.category) or 'no category'}")
        lines += [
            f"⚠ **{f.kind}**: {_plain(f.why)}. {KINDS[f.kind].advice}" for f in self.shelves[split].findings.get(number, [])
        ]
        lines += [f"⚠ the {role} cannot be read" for role in unreadable]
        if decision.instruction:
            lines.append(f"before: {_plain(pair.instructions[0] if pair.instructions else '')}")
        more = [f"“{_plain(t)}”" for t in pair.instructions[1:4]]
        lines += [f"also said: {' · '.join(more)}"] if more else []
        if pair.scores:
            lines.append(" · ".join(f"{name} {value:.3f}" for name, value in pair.scores.items()))
        lines += [
            f"{what}: {_plain(text)}" for what, text in (("from", pair.source_caption), ("to", pair.target_caption)) if text
        ]
        lines.append(f"licence: {_plain(pair.licence) or 'not stated'}")
        return "\n\n".join(lines)


def _at(seen: Seen, at: int) -> Seen:
    return Seen(seen.split, seen.wanted, seen.numbers, max(0, min(at, len(seen.numbers) - 1)))


def _plain(text: str) -> str:
    """Words of a data set, which may hold anything, as words and no markup."""
    return html.escape(text).translate({ord(c): f"&#{ord(c)};" for c in "*_`[]|\\~#"})


def _open(picture: Picture | None) -> Image.Image | None:
    try:
        return picture.open().convert("RGB") if picture is not None else None
    except PictureError:
        return None


def _save(image: Image.Image, role: str) -> str:
    path = Path(tempfile.mkdtemp(dir=FILES)) / f"{role}.png"
    image.save(path)
    return str(path)


def build_page(table: Table, checked: str) -> gr.Blocks:
    """The page.

    Args:
        table: what is shown.
        checked: what the last check found, in words.
    """
    shelf = next(iter(table.shelves.values()))
    first = _open(shelf.dataset[0].source)
    crisp = "crisp" if first is not None and max(first.size) < CRISP_BELOW else ""
    with gr.Blocks(title=f"editkit: {table.name}", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        counts = ", ".join(f"{len(s.dataset):,} in {split}" for split, s in table.shelves.items())
        gr.Markdown(f"# Pairs of {table.name}\n{counts}. {checked}", elem_id="title")
        filters = _ask(table, shelf)
        place = gr.Markdown(elem_id="place", elem_classes="quiet")
        with gr.Row(equal_height=False, elem_classes=crisp):
            with gr.Column(scale=5, min_width=280):
                slider = gr.ImageSlider(
                    label="Before and after", interactive=False, buttons=["fullscreen"], max_height=560, elem_id="result",
                    elem_classes="filled",
                )  # fmt: skip
                with gr.Row():
                    difference = gr.Image(
                        label=f"Difference × {AMPLIFIED}", interactive=False, buttons=[], height=200, format="png",
                        elem_id="difference", elem_classes="filled", min_width=120,
                    )  # fmt: skip
                    mask = gr.Image(
                        label="Mask", interactive=False, buttons=[], height=200, format="png", elem_id="mask",
                        elem_classes="filled", min_width=120,
                    )  # fmt: skip
            with gr.Column(scale=4, min_width=280):
                words = gr.Textbox(label="Instruction", lines=2, max_length=MAX_INSTRUCTION, elem_id="instruction")
                rewrite = gr.Button("Save the instruction", size="sm", elem_id="rewrite")
                with gr.Row():
                    reject = gr.Button("Reject (r)", size="md", min_width=90, elem_id="reject")
                    accept = gr.Button("Accept (a)", variant="primary", size="md", min_width=90, elem_id="accept")
                with gr.Row():
                    previous = gr.Button("←", size="sm", min_width=60, elem_id="previous")
                    undo = gr.Button("Undo (u)", size="sm", min_width=60, elem_id="undo")
                    following = gr.Button("→", size="sm", min_width=60, elem_id="next")
                facts = gr.Markdown(elem_id="facts")
                asked = gr.Textbox(label="Go to a key or number", max_length=200, elem_id="go-to")
        gr.Markdown(f"{HELP}. Decisions are kept in `{table.decisions.path}`.", elem_classes="quiet", elem_id="help")
        seen = gr.State(None)
        shown = [slider, difference, mask, words, facts, place, seen]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(table.choose, filters, shown, **quiet)
        page.load(None, None, None, js=KEYBOARD)
        for choice in filters:
            choice.input(table.choose, filters, shown, **quiet)
        following.click(lambda s: table.step(s, 1), seen, shown, **quiet)
        previous.click(lambda s: table.step(s, -1), seen, shown, **quiet)
        accept.click(lambda s: table.decide(s, "accepted"), seen, shown, **quiet)
        reject.click(lambda s: table.decide(s, "rejected"), seen, shown, **quiet)
        undo.click(table.undo, seen, shown, **quiet)
        rewrite.click(table.rewrite, [seen, words], shown, **quiet)
        asked.submit(table.go_to, [seen, asked], shown, **quiet)
    return page


def _ask(table: Table, shelf: Shelf) -> list[Any]:
    """The choices above the pictures."""
    every = list(table.shelves.values())
    categories = sorted({c for s in every for c in s.categories})
    kinds = list(dict.fromkeys(k for s in every for k in s.finding_kinds))
    scores = sorted({name for s in every for name in s.scores})
    orders = [f"{name}, {end}" for name in scores for end in ("lowest first", "highest first")]
    with gr.Row(elem_id="filters"):
        return [
            gr.Dropdown([*table.shelves], value=shelf.split, label="Split", min_width=100, elem_id="split"),
            gr.Dropdown(
                [ALL, *categories], value=ALL, label="Category", min_width=120, visible=categories != [""], elem_id="category"
            ),
            gr.Dropdown(
                [EVERYTHING, ANY_FINDING, NO_FINDING, *kinds], value=EVERYTHING, label="Finding", min_width=120,
                visible=bool(kinds), elem_id="finding",
            ),
            gr.Dropdown([*STATES], value=ALL, label="Decided", min_width=120, visible=shelf.known, elem_id="state"),
            gr.Dropdown(
                [BY_ORDER, *orders], value=BY_ORDER, label="Order", min_width=140, visible=bool(orders), elem_id="order"
            ),
        ]  # fmt: skip


def open_table(what: str) -> tuple[Table, str]:
    """The splits of a data set on the table, and what its last check says.

    Raises:
        UserError: there is no such data set, or it has no edit pairs.
    """
    decisions = Decisions(log_of(what))
    shelves = {}
    for split in SPLITS:
        try:
            dataset = open_dataset(what, split)
        except UserError:
            if split == SPLITS[0] or not shelves:
                raise
            continue
        if dataset.info["kind"] != "edit_pairs":
            raise UserError(f"{what}: found {dataset.info['kind']}; the page shows edit_pairs")
        if len(dataset):
            shelves[split] = Shelf(dataset, split, decisions)
    if not shelves:
        raise UserError(f"{what}: found no examples")
    found = {split: len(s.findings) for split, s in shelves.items() if s.findings}
    if found:
        said = f"The last check found something in {', '.join(f'{n:,} of {split}' for split, n in found.items())}."
    elif any(s.was_checked for s in shelves.values()):
        said = "The last check found nothing in this version of the data."
    else:
        said = f"`editkit check {what}` finds what is wrong with them."
    return Table(shelves, next(iter(shelves.values())).dataset.info["name"]), said


def launch(what: str | None, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until Ctrl-C.

    Args:
        what: a data spec or a data-set folder; None = the one that was built last.
        host: address to listen on; only this machine unless told otherwise.
        port: port to listen on.
    """
    table, said = open_table(what or newest())
    serve(build_page(table, said), host, port)


def newest() -> str:
    """The data set of edit pairs under data/ that was built last."""
    found = [p for p in Path("data").glob("*/dataset.json") if p.parent.suffix not in (".staging", ".publish")]
    built = sorted(found, key=lambda p: p.stat().st_mtime)
    if not built:
        raise UserError('found no data set in data/; name one: "editkit demo pairs --run data_specs/avatar_edits.toml"')
    return str(built[-1].parent)
