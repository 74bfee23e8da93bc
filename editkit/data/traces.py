"""Plan traces: a picture made in steps of plan, sketch, inspection and correction, as one typed record and as text.

After "Think in Strokes, Not Pixels" (Zhang et al., 2026, arXiv:2604.04746, figures 2 and 4). The text form is strict, so that
what a model writes can be read back, or refused with the step and the reason:

    Please create the image step-by-step: PROMPT
    <ins>the next change</ins><des>the whole picture after it</des>
    <image>
    The image is wrong: an issue; another. Still to come: an object; another. <refine>what to do about it</refine>
    <ins>...</ins><des>...</des>
    <image>
    The image is correct.

A line is a plan, a picture or an inspection, in this order; an inspection may be left out, and a picture where the inspection
rejects the plan before it is drawn. What a plan leaves for later is no fault of it, and is named as still to come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from editkit.data.pictures import Picture
from editkit.errors import UserError

PREFIX = "Please create the image step-by-step: "
IMAGE = "<image>"
Looked = Literal["plan", "image"]

_TAGS = re.compile(r"</?(?:ins|des|refine|image)>")
_PLAN = re.compile(r"<ins>(.*)</ins><des>(.*)</des>")
_LATER = " Still to come: "
_INSPECTION = re.compile(
    rf"The (plan|image) is (?:correct|wrong: (.+?))\.(?:{_LATER}(.+?)\.)?(?: <refine>(.*)</refine>)?"
)  # fmt: skip
_BETWEEN = "; "


class TraceError(UserError):
    """A trace that breaks the rules.

    Attributes:
        key: of the trace.
        step: which step, from 1; 0 = the trace as a whole.
        why: what was found and what was expected.
    """

    def __init__(self, key: str, step: int, why: str) -> None:
        super().__init__(f"{key}, step {step}: {why}" if step else f"{key}: {why}")
        self.key, self.step, self.why = key, step, why

    def __reduce__(self) -> tuple[type[TraceError], tuple[str, int, str]]:
        return TraceError, (self.key, self.step, self.why)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is said of a step after looking at it.

    Attributes:
        ok: whether it agrees: the plan with the prompt, and the picture with the plan.
        on: what is spoken of; a fault "on" the plan is a contradiction to the prompt, one on the image a wrong drawing.
        issues: what is wrong; of an ok step none.
        deferred: what the prompt asks for and a later step will add.
        refine: what to do about the issues, as an instruction; of an ok step "".
    """

    ok: bool
    on: Looked = "image"
    issues: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()
    refine: str = ""


@dataclass(frozen=True, slots=True)
class NeedLoss:
    """Which parts of a step are learned; the others are context. A faulty plan or draft is there to be seen, not imitated."""

    plan: bool = True
    sketch: bool = True
    inspection: bool = True


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One cycle.

    Attributes:
        ins: the next change only.
        des: the whole picture after the change.
        sketch: the picture; None where the inspection rejects the plan before anything is drawn.
        inspection: None where nobody looked.
        need_loss: see `NeedLoss`.
    """

    ins: str
    des: str
    sketch: Picture | None
    inspection: Inspection | None = None
    need_loss: NeedLoss = NeedLoss()


@dataclass(frozen=True, slots=True)
class PlanTrace:
    """A prompt and the steps in which it is drawn. Nothing is checked when one is made; see `check_trace`.

    Attributes:
        key: unique in its data set, stable between runs; a name of letters, digits, ".", "_" and "-".
        prompt: what is to be drawn.
        steps: at least one.
        final: the picture of the last step; None = the trace ends with a verdict and was not finished, as the examples do
            from which inspection alone is learned.
        scene: the scene graph of the prompt as JSON, where one is known.
        licence: of the pictures, as their authors state it.
        category: the kind of trace, for tables by kind.
        provenance: of a generated trace, how it came about, as JSON; "" = nobody wrote it down.
    """

    key: str
    prompt: str
    steps: tuple[PlanStep, ...]
    final: Picture | None
    scene: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    category: str = ""
    provenance: str = ""


def check_trace(trace: PlanTrace) -> PlanTrace:
    """The trace itself, if it keeps all rules.

    Raises:
        TraceError: with the first step that breaks one, and the reason.
    """
    if not re.fullmatch(r"[\w.-]+", trace.key):
        raise TraceError(
            repr(trace.key), 0, 'found this key; expected letters, digits, ".", "_" and "-", for files are named by it'
        )
    check_prompt(trace.prompt, trace.key)
    if not trace.steps:
        raise TraceError(trace.key, 0, "found no step; expected at least one")
    for n, step in enumerate(trace.steps, 1):
        _check_step(trace.key, n, step)
        rejected = step.inspection is not None and not step.inspection.ok
        if rejected and n == len(trace.steps) and trace.final is not None:
            raise TraceError(trace.key, n, "found a fault in the last step of a finished trace; expected a step that mends it")
    last = trace.steps[-1]
    number = len(trace.steps)
    if trace.final is None:
        if last.inspection is None:
            raise TraceError(
                trace.key, number, "found neither a final picture nor an inspection at the end; expected one of them"
            )
    elif trace.final != last.sketch:
        raise TraceError(trace.key, number, "found a final picture that is not the last step's; expected the same one")
    elif last.inspection is not None and last.inspection.deferred:
        some = ", ".join(last.inspection.deferred)
        raise TraceError(trace.key, number, f"found {some} still to come at the end; expected steps that draw it")
    return trace


def check_prompt(prompt: str, key: str = "the prompt") -> None:
    """Raises TraceError for a prompt that no trace can have: an empty one, several lines, tags of the grammar."""
    _check_text(key, 0, "prompt", prompt)


def _check_step(key: str, n: int, step: PlanStep) -> None:
    _check_text(key, n, "ins", step.ins)
    _check_text(key, n, "des", step.des)
    seen = step.inspection
    if step.sketch is None and (seen is None or seen.ok or seen.on != "plan"):
        raise TraceError(key, n, "found no picture; expected one, or an inspection that rejects the plan")
    if seen is not None:
        _check_inspection(key, n, seen)


def _check_inspection(key: str, n: int, seen: Inspection) -> None:
    if seen.on not in get_args(Looked):
        raise TraceError(key, n, f'found an inspection of the "{seen.on}"; expected plan or image')
    if seen.ok and (seen.issues or seen.refine):
        raise TraceError(key, n, "found issues or a correction in an inspection that is ok; expected none, or ok = false")
    if not seen.ok and not (seen.issues and seen.refine):
        raise TraceError(key, n, "found a rejection without issues or correction; expected at least one issue, and refine")
    for what, items in (("issue", seen.issues), ("deferred item", seen.deferred)):
        for item in items:
            _check_text(key, n, what, item)
            if ";" in item or _LATER in f" {item} ":
                raise TraceError(key, n, f'found the {what} "{item}"; expected one without ";" and "{_LATER.strip()}"')
    if seen.refine:
        _check_text(key, n, "refine", seen.refine)


def _check_text(key: str, n: int, what: str, text: str) -> None:
    if not text or text != text.strip():
        raise TraceError(key, n, f"found {what} = {text!r}; expected words with no space around them")
    if any(ord(c) < 32 for c in text):
        raise TraceError(key, n, f"found a line break or a control character in {what}; expected one line")
    tag = _TAGS.search(text)
    if tag:
        raise TraceError(key, n, f"found {tag[0]} inside {what}; expected text without the grammar's own tags")


def plan_text(step: PlanStep) -> str:
    """The plan of a step as the model writes it."""
    return f"<ins>{step.ins}</ins><des>{step.des}</des>"


def inspection_text(seen: Inspection) -> str:
    """An inspection as the model writes it: the verdict first, then why, what is still to come, and what to do."""
    return _verdict(seen) + (f" <refine>{seen.refine}</refine>" if seen.refine else "")


def inspection_words(seen: Inspection) -> str:
    """The same for people to read, without a tag."""
    return _verdict(seen) + (f" To do: {seen.refine}" if seen.refine else "")


def _verdict(seen: Inspection) -> str:
    text = f"The {seen.on} is " + ("correct." if seen.ok else f"wrong: {_BETWEEN.join(seen.issues)}.")
    return text + (f"{_LATER}{_BETWEEN.join(seen.deferred)}." if seen.deferred else "")


def parse_plan(text: str, key: str = "the text", step: int = 0) -> tuple[str, str]:
    """(ins, des) of a plan.

    Raises:
        TraceError: it is none.
    """
    found = _PLAN.fullmatch(text)
    if found is None:
        raise TraceError(key, step, f"found {text[:60]!r}; expected <ins>...</ins><des>...</des>")
    for what, words in zip(("ins", "des"), found.groups(), strict=True):
        _check_text(key, step, what, words)
    return found[1], found[2]


def parse_inspection(text: str, key: str = "the text", step: int = 0) -> Inspection:
    """What an inspection says.

    Raises:
        TraceError: it is none.
    """
    found = _INSPECTION.fullmatch(text)
    if found is None:
        expected = '"The plan|image is correct." or "... is wrong: ISSUES. <refine>...</refine>"'
        raise TraceError(key, step, f"found {text[:60]!r}; expected {expected}")
    on, issues, deferred, refine = found.groups()
    lists = [tuple(items.split(_BETWEEN)) if items else () for items in (issues, deferred)]
    seen = Inspection(issues is None, "plan" if on == "plan" else "image", *lists, refine or "")
    _check_inspection(key, step, seen)
    return seen


def trace_text(trace: PlanTrace) -> str:
    """The trace as text, its pictures as `<image>`."""
    lines = [PREFIX + trace.prompt]
    for step in trace.steps:
        lines.append(plan_text(step))
        if step.sketch is not None:
            lines.append(IMAGE)
        if step.inspection is not None:
            lines.append(inspection_text(step.inspection))
    return "\n".join(lines)


def parse_trace(text: str, pictures: Sequence[Picture], key: str, *, finished: bool = True) -> PlanTrace:
    """Reads the text form.

    Args:
        text: as `trace_text` prints it.
        pictures: one for each `<image>`, in order.
        key: of the trace.
        finished: whether the last picture is the final one.

    Returns:
        The checked trace, of which everything is learned.

    Raises:
        TraceError: with the step and the reason.
    """
    first, *lines = text.split("\n")
    if not first.startswith(PREFIX):
        raise TraceError(key, 0, f'found {first[:60]!r}; expected a first line "{PREFIX}PROMPT"')
    if len(pictures) != lines.count(IMAGE):
        raise TraceError(key, 0, f"found {len(pictures)} pictures for {lines.count(IMAGE)} {IMAGE}; expected one each")
    waiting = iter(pictures)
    steps = steps_of([next(waiting) if line == IMAGE else line for line in lines], key)
    final = steps[-1].sketch if steps and finished else None
    return check_trace(PlanTrace(key, first.removeprefix(PREFIX), tuple(steps), final))


def steps_of(parts: Sequence[str | Picture], key: str) -> list[PlanStep]:
    """Puts plans, pictures and inspections, as they follow each other, together to steps.

    Raises:
        TraceError: a part stands where it must not, or is none of the three.
    """
    steps: list[PlanStep] = []
    for part in parts:
        if isinstance(part, str) and part.startswith("<ins>"):
            steps.append(PlanStep(*parse_plan(part, key, len(steps) + 1), None))
            continue
        if not steps:
            raise TraceError(key, 1, f"found {_named(part)}; expected a plan first")
        step = steps[-1]
        if isinstance(part, Picture):
            if step.sketch is not None or step.inspection is not None:
                raise TraceError(
                    key, len(steps), "found a second picture, or one behind the inspection; expected a new plan before it"
                )
            steps[-1] = PlanStep(step.ins, step.des, part)
        else:
            if step.inspection is not None:
                raise TraceError(key, len(steps), f"found {_named(part)} behind the inspection; expected a new plan or the end")
            steps[-1] = PlanStep(step.ins, step.des, step.sketch, parse_inspection(part, key, len(steps)))
    return steps


def _named(part: str | Picture) -> str:
    return "a picture" if isinstance(part, Picture) else repr(part[:60])
