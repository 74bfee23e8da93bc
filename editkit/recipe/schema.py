"""A recipe: everything about a run, typed. Units and ranges stand beside each field.

A component owns its options: what belongs to one family or one method is not listed here but in the `Options` model of
that family or method, and `[model]` and `[method]` pass their further keys on to it (see `editkit.recipe.load.options`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT = 1

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of every table of a recipe: unknown keys and wrong types are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Component(BaseModel):
    """A table whose further keys belong to the component that it names."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that the named component validates itself."""
        return dict(self.model_extra or {})


class Method(Component):
    """What is trained; the further keys are the method's own `Options`."""

    name: str  # a key of editkit.methods.METHODS


class Model(Component):
    """Which network; the further keys are the family's own `Options`."""

    family: str  # a key of editkit.models.FAMILIES
    base: str = ""  # "lab:NAME", a folder, a run or a Hub id; "" = random weights of the family's own configuration


class Data(Section):
    """What it learns from, and how pictures become squares."""

    train: str  # a data spec (*.toml) or a data-set folder
    test: str = ""  # the same for evaluation and previews; "" = the "test" split of `train`
    resolution: PositiveInt  # px, the side of the square that the network sees
    crop: Literal["center", "random"] = "center"
    flip: Fraction = 0.0  # probability of a horizontal flip, one coin for the whole example
    cache_latents: bool = True  # encode every picture once before the first step; with crop = "random" it must be false
    workers: NonNegativeInt = 0  # threads that open and prepare the pictures of a batch; 0 = the training itself does
    limit: NonNegativeInt = 0  # take only the first N examples; 0 = all
    max_skipped: NonNegativeInt = 0  # pictures that may be unreadable before training refuses to start

    @model_validator(mode="after")
    def _crop_and_cache(self) -> Data:
        if self.crop == "random" and self.cache_latents:
            raise ValueError('crop = "random" cannot be cached; set cache_latents = false or crop = "center"')
        return self


class Optim(Section):
    """The optimiser and its schedule."""

    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: NonNegativeInt = 0  # steps of linear warm-up
    max_grad_norm: PositiveFloat = 1.0


class Train(Section):
    """How long, in what batches and numbers, and how often it is watched."""

    steps: PositiveInt  # optimiser steps
    batch_size: PositiveInt  # examples a forward pass
    accumulate: PositiveInt = 1  # forward passes an optimiser step
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the autocast; the masters stay fp32
    # How the trained weights are stored. Steps far below a weight's last bit vanish in bf16; "bf16-stochastic" rounds up or
    # down by chance, so that they count on average.
    weights: Literal["fp32", "bf16", "bf16-stochastic"] = "fp32"
    base: Literal["fp32", "bf16", "int8", "nf4", "fp8"] = "fp32"  # how the frozen weights beside an adapter are stored
    offload: Literal["none", "encoders", "base"] = "none"  # which frozen weights lie in a file until they are needed
    attention: Literal["auto", "sdpa", "math", "flash", "efficient", "cudnn", "xformers", "flash-attn"] = "auto"
    compile: bool = False  # torch.compile, block by block; pays after some hundreds of steps
    gradient_checkpointing: bool = False
    channels_last: bool = True
    ema_decay: Fraction = 0.0  # 0 = no EMA
    log_every: PositiveInt = 10  # steps
    save_every: NonNegativeInt = 0  # steps; 0 = only at the end
    keep_last: PositiveInt = 2  # checkpoints on disk
    preview_every: NonNegativeInt = 0  # steps; 0 = only at the end
    threads: NonNegativeInt = 0  # CPU threads; 0 = all cores

    @model_validator(mode="after")
    def _bf16_is_computed_in_bf16(self) -> Train:
        for key, value in (("weights", self.weights), ("base", self.base)):
            if value.startswith("bf16") and self.precision != "bf16":
                raise ValueError(f'{key} = "{value}" needs precision = "bf16"; found "{self.precision}"')
        return self


class Adapter(Section):
    """Small layers beside frozen ones; without this table the whole network is trained."""

    name: Literal["lora"] = "lora"
    rank: PositiveInt = 16
    alpha: PositiveInt = 16
    dropout: Fraction = 0.0
    targets: list[str] = []  # module-name endings; [] = the family's preset
    lr: Annotated[float, Field(ge=0)] = 0.0  # 0 = optim.lr


class Evaluate(Section):
    """How the previews during training and `editkit eval` sample."""

    pairs: NonNegativeInt = 0  # examples scored at the end of training; 0 = none
    preview_pairs: NonNegativeInt = 0  # examples scored at each preview; 0 = pictures only
    steps: PositiveInt = 20  # sampling steps
    text_guidance: Annotated[float, Field(ge=1)] = 7.5
    image_guidance: Annotated[float, Field(ge=1)] = 1.5
    text_grid: list[float] = []  # guidance values of the grid's columns; [] = no grid
    image_grid: list[float] = []  # and of its rows
    judge: str = "lab:judges"
    seed: int = 0
    batch_size: PositiveInt = 64


class Recipe(Section):
    """Everything about a run."""

    format: Literal[1] = 1
    name: str
    description: str = ""
    seed: int = 0
    method: Method
    model: Model
    data: Data
    optim: Optim
    train: Train
    adapter: Adapter | None = None
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _what_is_frozen(self) -> Recipe:
        if self.adapter is None and self.train.base != "fp32":
            raise ValueError(f'train.base = "{self.train.base}" is for the frozen weights beside an adapter; add [adapter]')
        if self.train.offload == "base":
            if self.adapter is None:
                raise ValueError('train.offload = "base" is for the frozen weights beside an adapter; add [adapter]')
            if self.train.base not in ("fp32", "bf16"):
                raise ValueError(f'train.offload = "base" cannot move a base of "{self.train.base}"; use train.base = "bf16"')
            if self.train.compile:
                raise ValueError('train.offload = "base" moves weights in the middle of a block; set train.compile = false')
        if self.train.offload == "encoders" and not self.data.cache_latents:
            raise ValueError('train.offload = "encoders": every step needs them with data.cache_latents = false')
        return self
