"""What `--judge` names: a detector by its name, or a TOML file with the one that judges and its options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from editkit.errors import UserError
from editkit.evaluate.benches.geneval import Detector
from editkit.evaluate.benches.scene_bench import load_scene_judge
from editkit.models.chat.endpoint import Endpoint
from editkit.models.precision import choose_device
from editkit.recipe.load import load_toml_model
from editkit.recipe.schema import PositiveInt, Section

REAL = "mask2former"


class DetectorOptions(Section):
    """The keys of `[mask2former]`: local folders in the stock layout, or Hub ids; "" = see `Mask2FormerDetector`."""

    objects: str = ""
    clip: str = ""


class ChatJudge(Endpoint):
    """The keys of `[chat]`: a model that looks at pictures and answers."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    side: PositiveInt = 1024  # px; larger pictures are sent that large
    seed: int = 0


class JudgeFile(Section):
    """A judge that a name does not say enough of."""

    format: Literal[1] = 1
    mask2former: DetectorOptions | None = None
    chat: ChatJudge | None = None

    @model_validator(mode="after")
    def _one(self) -> JudgeFile:
        if (self.mask2former is None) == (self.chat is None):
            raise ValueError("expected one table, [mask2former] or [chat]")
        return self


def load_judge_file(path: str) -> JudgeFile:
    """Reads one.

    Raises:
        UserError: with file, line and key.
    """
    return load_toml_model(path, JudgeFile)[0]


def load_detector(judge: str) -> Detector:
    """The detector that looks for GenEval.

    Args:
        judge: "mask2former"; "lab:judges/scene_reader", or a run of the method scene_reader; or a TOML file.

    Raises:
        UserError: there is none of that name, or it is no detector.
    """
    options = DetectorOptions()
    if judge.endswith(".toml"):
        found = load_judge_file(judge).mask2former
        if found is None:
            raise UserError(f"{judge}: found [chat]; GenEval is scored by a detector, so name one: [mask2former]")
        options = found
    elif judge != REAL:
        detector = load_scene_judge(judge)
        assert detector is not None
        return detector
    from editkit.evaluate.benches.mask2former import Mask2FormerDetector  # transformers, which no scene reader needs

    given = {name: value for name, value in options.model_dump().items() if value}
    return Mask2FormerDetector(**given, device=str(choose_device()))


def load_chat_judge(judge: str, bench: str) -> ChatJudge:
    """The chat model that judges a bench.

    Raises:
        UserError: none is named, or the file has another judge.
    """
    if not judge.endswith(".toml"):
        raise UserError(
            f'--judge: found "{judge}"; {bench} is judged by a chat model, so name a TOML file whose table [chat] has the url '
            "and the model"
        )
    found = load_judge_file(judge).chat
    if found is None:
        raise UserError(f"{judge}: found [mask2former]; {bench} is judged by a chat model, so give it [chat]")
    return found
