"""The page of plan, sketch, inspect, refine: a picture as it comes about, step by step, and a person's hand in it.

A person stops it, changes the plan of a step, overrules a verdict or remarks on the last picture; the model goes on from there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol

import gradio as gr

from apps.course import Course
from apps.page import latest_run, refusal, serve
from apps.strip import Making, strip
from editkit.errors import UserError
from editkit.evaluate.generate_file import MAX_SEED, check_asked
from editkit.evaluate.plan_folder import read_text
from editkit.evaluate.steering import Begun, declare_right, declare_wrong, inspection_of, plain, remark, replan
from editkit.evaluate.trajectories import places_of
from editkit.models.bagel.generate import Sampled
from editkit.models.generator import PLANS, Drawn, Ended, Letters, Said, Step

MAX_WORDS = 600  # characters
SECONDS_BETWEEN = 0.2  # of what is shown while letters and sampling steps come
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}  # visitors take turns
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
TO_STRIP = "(...a) => { document.getElementById('strip').scrollIntoView({behavior: 'smooth', block: 'nearest'}); return a }"
FIRST_LINE = "The steps will stand here: what is planned, what is drawn, what is found wrong, and how it is mended."


class Planner(Protocol):
    """What the page needs of `editkit.models.generator.BagelGenerator`."""

    defaults: dict[str, Any]
    steps: Callable[..., Iterator[Step]]


@dataclass
class Clock:
    """How long it has taken, and how fast it samples."""

    steps: int
    started: float = field(default_factory=time.perf_counter)
    shown: float = 0.0
    picture_began: float = 0.0

    def due(self) -> bool:
        """Whether it is time to show something again."""
        now = time.perf_counter()
        if now - self.shown < SECONDS_BETWEEN:
            return False
        self.shown = now
        return True

    def elapsed(self) -> str:
        """Since the model was asked."""
        return _seconds(time.perf_counter() - self.started)

    def sampled(self, number: int, done: int) -> str:
        """The line while a picture is drawn."""
        rate = done / max(1e-6, time.perf_counter() - self.picture_began)
        left = _seconds((self.steps - done) / rate)
        return f"Picture {number}: step {done} of {self.steps}, {rate:.1f} steps/s, {left} left · {self.elapsed()} so far"


class Desk:
    """The functions behind the buttons. What a visitor made lives in the visitor's page, nothing of it here."""

    def __init__(self, planner: Planner, run: str) -> None:
        self._planner, self._run = planner, run

    def draw(self, course: Course, prompt: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Draws a prompt from its beginning."""
        prompt = prompt.strip()
        _asked(lambda: check_asked(prompt))
        yield from self._go(course, prompt, Begun([], None), settings)

    def replan(self, course: Course, step: str, ins: str, des: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Draws another plan of a step, and goes on."""
        begun = _asked(lambda: replan(course.parts, _number(step), ins, des))
        yield from self._go(course, course.prompt, begun, settings)

    def right(self, course: Course, step: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Declares a step right, and goes on."""
        begun = _asked(lambda: declare_right(course.parts, _number(step)))
        yield from self._go(course, course.prompt, begun, settings)

    def wrong(self, course: Course, step: str, issue: str, refine: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Declares a step wrong, and lets the model mend it."""
        begun = _asked(lambda: declare_wrong(course.parts, _number(step), issue, refine))
        yield from self._go(course, course.prompt, begun, settings)

    def remark(self, course: Course, words: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Lets the model mend the last picture as a person says."""
        begun = _asked(lambda: remark(course.parts, words))
        yield from self._go(course, course.prompt, begun, settings)

    def go_on(self, course: Course, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Goes on where it was stopped."""
        if not course.stopped:
            raise refusal("Nothing was stopped; change a plan or a verdict, or add a remark.")
        yield from self._go(course, course.prompt, Begun(course.parts, None), settings)

    def stop(self, course: Course) -> str:
        """Asks for an end when the text or the picture of now is whole."""
        course.stop = True
        return _line("Stopping when this text or picture is whole …")

    def choose(self, course: Course, step: str) -> tuple[str, str, str, str]:
        """The words of a step: instruction, description, what is wrong, what to do."""
        places = places_of(plain(course.parts))
        number = _number(step)
        if not 1 <= number <= len(places):
            return "", "", "", ""
        place, seen = places[number - 1], inspection_of(course.parts, number)
        part = course.parts[place.plan] if place.plan is not None else None
        plan = read_text(part.text) if isinstance(part, Said) else {}
        issues = "; ".join(seen.issues) if seen is not None else ""
        return plan.get("ins", plan.get("text", "")), plan.get("des", ""), issues, seen.refine if seen is not None else ""

    def settle(self, course: Course) -> tuple[Any, ...]:
        """What a person can do now: see `_settled`."""
        count = len(places_of(plain(course.parts)))
        names = [str(n) for n in range(1, count + 1)]
        last = names[-1] if names else None
        return (
            gr.Button(interactive=True),
            gr.Button(visible=False),
            gr.Button(visible=course.stopped),
            gr.DownloadButton(value=course.archive, visible=course.archive is not None),
            gr.Column(visible=bool(names)),
            gr.Radio(choices=names, value=last),
            *self.choose(course, last or "0"),
            "",
        )

    def _go(self, course: Course, prompt: str, begun: Begun, settings: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Lets the model go on; yields the strip, the line below the buttons, and Draw, Stop and the hand as they are then."""
        seed, steps, text_guidance, image_guidance = settings
        if seed is None or not 0 <= seed <= MAX_SEED:
            raise refusal(f"Found the seed {seed}; expected a number from 0 to {MAX_SEED}.")
        how = {"steps": int(steps), "text_guidance": text_guidance, "image_guidance": image_guidance}
        course.begin(prompt, begun.parts, {"seed": int(seed), **how})
        clock, making, letters = Clock(int(steps)), Making("text"), ""
        busy = gr.Button(interactive=False), gr.Button(visible=True), gr.Button(visible=False), gr.Column(visible=False)

        def shown(line: str, *, whole: bool = True) -> tuple[Any, ...]:
            made = strip(prompt, course.parts, course.files, done=course.by_itself, making=making)
            return made if whole else gr.skip(), _line(line), *busy

        yield shown(f"Reading · {clock.elapsed()} so far")
        number = sum(isinstance(part, Drawn) for part in begun.parts) + 1
        for event in self._planner.steps(prompt, **how, seed=int(seed), begun=begun.parts, then=begun.then):
            if isinstance(event, Letters):
                letters += event.text
                making = Making("text", letters)
                if clock.due():
                    yield shown(f"Writing · {clock.elapsed()} so far")
            elif isinstance(event, Sampled):
                first = making.kind != "picture"
                making = Making("picture")
                clock.picture_began = clock.picture_began or time.perf_counter()
                if clock.due() or first:
                    yield shown(clock.sampled(number, event.done), whole=first)
            elif isinstance(event, Ended):
                course.why, course.by_itself = event.why, event.by_itself
            elif isinstance(event, (Said, Drawn)):
                course.add(event)
                number += isinstance(event, Drawn)
                making, letters, clock.picture_began = Making("text"), "", 0.0
                if course.stop:
                    break
                yield shown(f"Looking · {clock.elapsed()} so far" if isinstance(event, Drawn) else f"{clock.elapsed()} so far")
        made = strip(prompt, course.parts, course.files, done=course.by_itself)
        unread = course.save(self._run)
        pictures = sum(isinstance(part, Drawn) for part in course.parts)
        ended = "The model is done" if course.by_itself else f"Ended: {course.why}"
        said = f"{ended} · {pictures} picture{'' if pictures == 1 else 's'} · {clock.elapsed()}"
        yield made, _line(f"{said} · not all is a trace ({unread})" if unread else said), *busy


def _asked(check: Callable[[], Any]) -> Any:
    """What a check returns; the line of a mistake goes to the visitor."""
    try:
        return check()
    except UserError as error:
        raise refusal(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _number(step: str | None) -> int:
    return int(step) if step and step.isdecimal() else 0


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


def _line(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def build_page(planner: Planner, run: str) -> gr.Blocks:
    """The page.

    Args:
        planner: what draws in steps.
        run: its name.
    """
    desk = Desk(planner, run)
    with gr.Blocks(title="editkit", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        side = planner.defaults["resolution"]
        gr.Markdown(f"# Draw a picture in steps\n`{run}`, {side} × {side} px", elem_id="title")
        course = gr.State(Course())
        prompt = gr.Textbox(label="Prompt", placeholder="a red star left of a blue cup", max_length=MAX_WORDS, elem_id="prompt")
        with gr.Row():
            draw = gr.Button("Draw", variant="primary", size="lg", min_width=140, elem_id="draw")
            stop = gr.Button("Stop", size="lg", min_width=140, visible=False, elem_id="stop")
            more = gr.Button("Go on", size="lg", min_width=140, visible=False, elem_id="go-on")
        settings = _settings(planner.defaults)
        line = gr.HTML(_line(FIRST_LINE), padding=False, elem_id="line", elem_classes="quiet")
        shown = gr.HTML("", padding=False, elem_id="strip")
        archive = gr.DownloadButton("Download the trace (zip)", size="md", visible=False, elem_id="archive")
        hand, step, words, buttons = _hand()
        ins, des, issue, refine, note = words
        running = [shown, line, draw, stop, more, hand]
        settled = [draw, stop, more, archive, hand, step, *words]

        def goes(trigger: Any, function: Any, inputs: Sequence[gr.Component], name: str) -> None:
            told = gr.on(
                trigger, function, [course, *inputs, *settings], running, js=TO_STRIP, api_name=name, **MODEL,
                show_progress="minimal", show_progress_on=line,  # who waits for another visitor sees how long the queue is
            )  # fmt: skip
            told.then(desk.settle, course, settled, **QUIET)

        goes([draw.click, prompt.submit], desk.draw, [prompt], "draw")
        goes(more.click, desk.go_on, [], "go_on")
        goes(buttons["replan"].click, desk.replan, [step, ins, des], "replan")
        goes(buttons["right"].click, desk.right, [step], "right")
        goes(buttons["wrong"].click, desk.wrong, [step, issue, refine], "wrong")
        goes([buttons["remark"].click, note.submit], desk.remark, [note], "remark")
        stop.click(desk.stop, course, line, queue=False, **QUIET)
        step.input(desk.choose, [course, step], [ins, des, issue, refine], **QUIET)
    return page


def _settings(defaults: Mapping[str, Any]) -> list[Any]:
    """Seed, steps and guidances, folded away."""
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        with gr.Row():
            new_seed = gr.Button("New seed", size="sm", render=False)
            seed = gr.Number(
                0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, buttons=[new_seed], min_width=160, elem_id="seed"
            )
            steps = gr.Slider(
                1, max(50, defaults["steps"]), defaults["steps"], step=1, label="Steps of a picture", min_width=160,
                elem_id="steps",
            )  # fmt: skip
        with gr.Row():
            text = gr.Slider(
                1, max(12, defaults["text_guidance"]), defaults["text_guidance"], step=0.1, label="Text guidance",
                info="How strongly the plan counts", min_width=160, elem_id="text-guidance",
            )  # fmt: skip
            image = gr.Slider(
                1, max(3, defaults["image_guidance"]), defaults["image_guidance"], step=0.05, label="Image guidance",
                info="How strongly the pictures before count", min_width=160, elem_id="image-guidance",
            )  # fmt: skip
    new_seed.click(lambda: random.randint(0, MAX_SEED), None, seed, api_visibility="private")
    return [seed, steps, text, image]


def _hand() -> tuple[gr.Column, gr.Radio, list[gr.Textbox], dict[str, gr.Button]]:
    """What a person changes: the column, the step that is meant, its words and a remark, and the buttons."""
    with gr.Column(visible=False, elem_id="hand") as column:
        step = gr.Radio([], label="Step in at step", elem_id="step")
        with gr.Tabs():
            with gr.Tab("Edit plan", elem_id="tab-plan"):
                ins = gr.Textbox(label="Instruction: the next change", max_length=MAX_WORDS, elem_id="ins")
                des = gr.Textbox(label="Description: the whole picture after it", max_length=MAX_WORDS, elem_id="des")
                replanned = gr.Button("Draw this plan and go on", size="md", elem_id="replan")
            with gr.Tab("Overrule", elem_id="tab-verdict"):
                right = gr.Button("It is right: go on", size="md", elem_id="right")
                issue = gr.Textbox(label="What is wrong", max_length=MAX_WORDS, elem_id="issue")
                refine = gr.Textbox(label="What to do about it", max_length=MAX_WORDS, elem_id="refine")
                wrong = gr.Button("It is wrong: refine", size="md", elem_id="wrong")
            with gr.Tab("Remark", elem_id="tab-remark"):
                note = gr.Textbox(
                    label="What to do with the last picture", placeholder="make the star blue", max_length=MAX_WORDS,
                    elem_id="note",
                )  # fmt: skip
                remarked = gr.Button("Refine again", size="md", elem_id="remark")
    buttons = {"replan": replanned, "right": right, "wrong": wrong, "remark": remarked}
    return column, step, [ins, des, issue, refine, note], buttons


def launch(run: str | None, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Loads a planner and serves the page until Ctrl-C.

    Args:
        run: a run of the method plan_refine, or its folder; None = the latest finished one.
        host: address to listen on; only this machine unless told otherwise.
        port: port to listen on.

    Raises:
        UserError: there is none, or it was not trained to plan.
    """
    from editkit.models.generator import load_planner
    from editkit.models.precision import choose_device
    from editkit.runs import find_run

    which = run or latest_run(PLANS)
    if which is None:
        raise UserError("found no finished run of the method plan_refine in runs/; train recipes/plan_refine.toml, or name one")
    if which == "latest":
        which = str(find_run(which))
    planner = load_planner(which, device=choose_device())
    print(f"loaded {which}", flush=True)
    serve(build_page(planner, which), host, port)
