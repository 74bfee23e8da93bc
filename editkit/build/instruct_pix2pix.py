"""InstructPix2Pix's way to edit pairs: `builder = "instruct_pix2pix"` (Brooks et al. 2023, section 3.1).

propose: a teacher of texts writes (caption, instruction, edited caption); select: text filters; render: Prompt-to-Prompt draws
several pairs of pictures for every pair of captions, or an editor edits pictures that are there; filter: CLIP keeps those that
show the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from editkit.build.filters import FilterOptions, FilterPairs
from editkit.build.generated import GeneratedExamples
from editkit.build.render import RenderOptions, RenderPairs
from editkit.build.render_edits import EditorOptions, RenderEdits
from editkit.build.stages import Gathering, Stage
from editkit.build.teachers.chat import ChatOptions, ChatTeacher
from editkit.build.teachers.grammar import GrammarTeacher
from editkit.build.teachers.local import LocalOptions, LocalTeacher
from editkit.build.teachers.protocol import Propose, Teacher
from editkit.build.text_filters import SelectTexts
from editkit.data.spec import DataSpec
from editkit.errors import UserError
from editkit.models.locate import version_of
from editkit.recipe.schema import NonNegativeInt, PositiveInt, Section


class GrammarOptions(Section):
    """The lab's grammar."""

    teacher: Literal["grammar"]
    part_size: PositiveInt = 200


def _renderer(given: Any) -> str:
    """The renderer that is named, or the paper's."""
    named = given.get("renderer", "") if isinstance(given, Mapping) else getattr(given, "renderer", "")
    return named or "prompt_to_prompt"


class InstructPix2PixBuilder(GeneratedExamples):
    """Of edit pairs, by the stages that the module names."""

    builder = "instruct_pix2pix"

    class Options(Section):
        """The keys of `[build]` behind `builder`."""

        train: NonNegativeInt  # proposals asked for; fewer pairs of prompts, or more pairs of pictures, come out
        test: NonNegativeInt
        seed: int = 0
        propose: Annotated[GrammarOptions | ChatOptions | LocalOptions, Field(discriminator="teacher")]
        render: Annotated[
            Annotated[RenderOptions, Tag("prompt_to_prompt")] | Annotated[EditorOptions, Tag("editor")],
            Discriminator(_renderer),
        ]
        filter: FilterOptions

    def stages(self, spec: DataSpec) -> Sequence[Stage | Gathering]:
        if not spec.licence:
            raise UserError(f'{spec.name}: found no licence; say under which one the drawn pictures are: licence = "..."')
        options = self._options
        teacher = self._teacher()
        render = self._render()
        judge = FilterPairs(options.filter, spec.licence, version_of(options.filter.clip))
        self._credits = {spec.licence: spec.credit}
        self._teachers = {
            "propose": dict(teacher.identity()),
            "render": dict(render.identity()),
            "filter": dict(judge.identity()),
        }
        select = SelectTexts(options.render.prompts_per_part)
        return [Propose(teacher, options.propose.part_size), select, render, judge]

    def _render(self) -> Stage:
        options, propose = self._options.render, self._options.propose
        version = version_of(options.model)
        if isinstance(options, RenderOptions):
            return RenderPairs(options, self._options.seed, version)
        captions = getattr(propose, "captions", "")
        if not captions or Path(captions).suffix == ".txt":
            raise UserError(
                f'[build.render] renderer = "editor" edits pictures, and teacher = "{propose.teacher}" knows of none; '
                "expected a teacher whose captions are a data set of captioned pictures"
            )
        return RenderEdits(options, self._options.seed, version, captions)

    def _teacher(self) -> Teacher:
        propose = self._options.propose
        if isinstance(propose, ChatOptions):
            return ChatTeacher.of(propose, self._options.seed, self.counts())
        if isinstance(propose, LocalOptions):
            return LocalTeacher.of(propose, self._options.seed, self.counts())
        return GrammarTeacher(self._options.seed)
