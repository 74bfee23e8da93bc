"""A recipe: everything about a run, typed. Units and ranges stand beside each field.

A component owns its options: what belongs to one family or one method is not listed here but in the `Options` model of
that family or method, and `[model]` and `[method]` pass their further keys on to it (see `editkit.recipe.load.options`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

FORMAT = 1

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# A value or a list of such; the tags make a mistake in one of them a message about that one alone (see `recipe.load`).
ONE, SEVERAL = "one value", "several values"
_ONE_OR_SEVERAL = Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE)
Fractions = Annotated[Annotated[Fraction, Tag(ONE)] | Annotated[list[Fraction], Tag(SEVERAL)], _ONE_OR_SEVERAL]
Names = Annotated[Annotated[str, Tag(ONE)] | Annotated[list[str], Tag(SEVERAL)], _ONE_OR_SEVERAL]


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


class Buckets(Section):
    """Sizes to which pictures are brought instead of one square; a batch has pictures of one size."""

    sides: list[PositiveInt]  # px, square roots of the areas; a picture goes where the least of it is lost
    step: PositiveInt = 64  # px; both sides of a bucket are multiples of it
    max_aspect: Annotated[float, Field(ge=1)] = 2.0  # longer side / shorter side at most; 1 = squares alone

    @model_validator(mode="after")
    def _multiples(self) -> Buckets:
        odd = [side for side in self.sides if side % self.step]
        if odd or not self.sides:
            raise ValueError(f"sides: found {self.sides}; expected multiples of step = {self.step}, at least one")
        return self


class Mixed(Section):
    """A further data set that training draws from."""

    train: str  # a data spec (*.toml), a data-set folder, or the URL of one
    weight: PositiveFloat  # examples drawn from it for each one from `data.train`


class Data(Section):
    """What it learns from, and how pictures become squares."""

    train: str  # a data spec (*.toml), a data-set folder, or the URL of one
    mix: list[Mixed] = []  # further data sets; [] = every example of `train` once an epoch
    test: str = ""  # the same for evaluation and previews; "" = the "test" split of `train`
    resolution: PositiveInt  # px, the side of the square that the network sees; with buckets, batch_size counts such squares
    buckets: Buckets | None = None
    crop: Literal["center", "random"] = "center"
    flip: Fraction = 0.0  # probability of a horizontal flip, one coin for the whole example
    cache_latents: bool = True  # encode every picture once before the first step, not in every step
    cache_views: NonNegativeInt = 0  # drawn crops and flips kept of each example; 0 = the centre, and its mirror if flip > 0
    cache_texts: bool = False  # keep the states of every text on disk, where the text encoder is frozen
    workers: NonNegativeInt = 2  # threads that open and prepare batches ahead; 0 = the training itself does
    ahead: PositiveInt = 2  # batches that they prepare in advance
    window: NonNegativeInt = 0  # row groups shuffled together, for data sets larger than memory; 0 = all
    limit: NonNegativeInt = 0  # take only the first N examples; 0 = all
    categories: list[str] = []  # of `train` and `test`: only examples whose category begins with one of these; [] = all
    last_pictures: bool = False  # of plan traces in `train` and `test`: prompts and last pictures alone, as captioned images
    keep_out: list[str] = []  # evaluation sets of which no example may be in the training data
    max_skipped: NonNegativeInt = 0  # pictures that may be unreadable before training refuses to start

    @model_validator(mode="after")
    def _crop_and_cache(self) -> Data:
        if self.crop == "random" and self.cache_latents and not self.cache_views:
            raise ValueError(
                'crop = "random" cannot be cached as it is; set cache_views = N to keep N drawn crops of each example, '
                'cache_latents = false to encode in every step, or crop = "center"'
            )
        return self


class OptimGroup(Section):
    """Parameters with a rate or a decay of their own."""

    match: str  # regular expression, searched in the parameter names; the first table that fits a name has it
    lr: PositiveFloat | None = None  # left out = what the method gives these parameters, mostly optim.lr
    weight_decay: Annotated[float, Field(ge=0)] | None = None  # left out = optim.weight_decay

    @field_validator("match")
    @classmethod
    def _is_a_pattern(cls, match: str) -> str:
        try:
            re.compile(match)
        except re.error as error:
            raise ValueError(f'found "{match}", which is no regular expression ({error})') from None
        return match


class Optim(Section):
    """The optimiser and its schedule."""

    name: Literal["adamw", "adamw8bit", "prodigy", "schedule_free", "muon"] = "adamw"
    lr: PositiveFloat  # of prodigy: what the rate that it finds is multiplied with, mostly 1
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    momentum: Fraction = 0.95  # of muon's matrices; what is no matrix has AdamW's betas
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    decay_vectors: bool = True  # false = no weight decay on norms, biases and everything else of one dimension
    groups: list[OptimGroup] = []
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"  # after the warm-up; wsd = constant, then linear
    warmup: NonNegativeInt = 0  # steps of linear warm-up
    decay_share: Fraction = 0.2  # of wsd: the last share of all steps, in which the rate falls to 0
    max_grad_norm: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _rates_that_mean_something(self) -> Optim:
        if self.name == "schedule_free" and self.schedule != "constant":
            raise ValueError(f'schedule: found "{self.schedule}"; schedule_free needs none, use "constant" (with a warm-up)')
        if self.name == "prodigy" and self.lr < 0.01:
            raise ValueError(f"lr: found {self.lr:g}; prodigy finds the rate itself and multiplies it with lr, so set lr = 1.0")
        owners = {"momentum": ("name", "muon"), "decay_share": ("schedule", "wsd")}
        for key, (chooser, owner) in owners.items():
            if getattr(self, key) != type(self).model_fields[key].default and getattr(self, chooser) != owner:
                raise ValueError(f'{key}: belongs to {chooser} = "{owner}"; found {chooser} = "{getattr(self, chooser)}"')
        return self


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
    # Which frozen weights lie in a file until they are needed: the encoders behind filled caches, or the base of an adapter
    # too, layer by layer; auto = the encoders, where data.cache_latents fills a cache.
    offload: Literal["auto", "none", "encoders", "base"] = "auto"
    attention: Literal["auto", "sdpa", "math", "flash", "efficient", "cudnn", "xformers", "flash-attn"] = "auto"
    compile: bool = False  # torch.compile, block by block; pays after some hundreds of steps
    gradient_checkpointing: bool = False
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"  # at a loss that is no number, or a spike
    spike_factor: Annotated[float, Field(ge=0)] = 0.0  # a gradient norm of so many times the usual is a spike; 0 = none is
    channels_last: bool = True  # layout of convolutions in memory; shards (fsdp, hsdp) cannot have it and are contiguous
    ema_decay: Fractions = 0.0  # 0 = no EMA; of several the first is exported, and all are kept
    post_hoc_ema: bool = False  # snapshots from which an average of any length can be made after the training
    # Which of them is exported and judged: its length, as a share of the training; 0 = the first average of ema_decay. A run
    # that is done takes another one with --resume RUN --set train.export_sigma_rel=0.12
    export_sigma_rel: Annotated[float, Field(ge=0, le=0.25)] = 0.0
    log_every: PositiveInt = 10  # steps
    save_every: NonNegativeInt = 0  # steps; 0 = only at the end
    keep_last: PositiveInt = 2  # newest checkpoints on disk
    keep_best: NonNegativeInt = 0  # and the N best by `best_metric`
    best_metric: str = ""  # a figure of the log, such as "followed"; highest is best, or lowest: "-loss"
    preview_every: NonNegativeInt = 0  # steps; 0 = only at the end
    threads: NonNegativeInt = 0  # CPU threads; 0 = all cores
    resume_despite: list[
        str
    ] = []  # what may differ from the run that --resume goes on with: "data", "torch", "optim.lr", "optim"

    @model_validator(mode="after")
    def _best_has_a_metric(self) -> Train:
        if self.keep_best and not self.best_metric.removeprefix("-"):
            raise ValueError('keep_best needs best_metric, the figure that decides; such as best_metric = "-loss"')
        return self

    @model_validator(mode="after")
    def _exported_is_kept(self) -> Train:
        if self.export_sigma_rel and not self.post_hoc_ema:
            raise ValueError("export_sigma_rel is the length of an average that post_hoc_ema = true keeps; add it")
        return self

    @model_validator(mode="after")
    def _several_decays(self) -> Train:
        decays = self.ema_decay if isinstance(self.ema_decay, list) else []
        if 0.0 in decays or len(set(decays)) < len(decays):
            raise ValueError(f"ema_decay: found {decays}; expected different numbers above 0")
        return self

    @model_validator(mode="after")
    def _bf16_is_computed_in_bf16(self) -> Train:
        for key, value in (("weights", self.weights), ("base", self.base)):
            if value.startswith("bf16") and self.precision != "bf16":
                raise ValueError(f'{key} = "{value}" needs precision = "bf16"; found "{self.precision}"')
        return self


class Parallel(Section):
    """How several processes share the work; for one process it says nothing."""

    processes: PositiveInt = 1  # on this machine; editkit starts them. Under torchrun the launcher's number counts
    layout: Literal["ddp", "fsdp", "hsdp"] = "ddp"  # whole copies | sharded | sharded in groups, copied across them
    shard: PositiveInt = 1  # processes of a shard group, for hsdp


class Tracking(Section):
    """Where figures and previews are shown besides the run's own folder, which always has metrics.jsonl and pace.jsonl.

    TensorBoard's files lie in the run (`tensorboard --logdir runs`); trackio keeps its own on this machine (`trackio show`);
    wandb does as its own settings say, such as WANDB_MODE=offline.
    """

    to: list[Literal["tensorboard", "trackio", "wandb"]] = []
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)] = "editkit"  # trackio's and wandb's


class Adapter(Section):
    """Small layers beside frozen ones; without this table the whole network is trained."""

    name: Literal["lora", "rslora", "dora", "lokr", "loha", "oft"] = "lora"
    rank: PositiveInt | None = None  # of all but oft; left out = 16
    alpha: PositiveInt | None = None  # of all but oft: strength, over the rank (rslora: over its root); left out = 16
    block_size: PositiveInt | None = None  # of oft alone: side of the rotated blocks, divides the layers' width; left out = 32
    dropout: Fraction = 0.0  # of the inputs (lora, rslora, dora), of whole layers (lokr, loha) or of blocks (oft)
    targets: Names = []  # module-name endings, or one regular expression for whole module names; [] = the family's preset
    lr: Annotated[float, Field(ge=0)] = 0.0  # 0 = optim.lr

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return ({"block_size": 32} if values.get("name") == "oft" else {"rank": 16, "alpha": 16}) | values

    @model_validator(mode="after")
    def _only_what_the_kind_has(self) -> Adapter:
        foreign = ("rank", "alpha") if self.name == "oft" else ("block_size",)
        if found := [key for key in foreign if getattr(self, key) is not None]:
            has = "block_size" if self.name == "oft" else "rank and alpha"
            raise ValueError(f'found {" and ".join(found)}, which "{self.name}" does not have; its size is {has}')
        return self


class Evaluate(Section):
    """How the previews during training and `editkit eval` sample."""

    pairs: NonNegativeInt = 0  # examples scored at the end of training; 0 = none
    preview_pairs: NonNegativeInt = 0  # examples scored at each preview; 0 = pictures only
    steps: PositiveInt = 20  # sampling steps
    text_guidance: Annotated[float, Field(ge=1)] = 7.5
    image_guidance: Annotated[float, Field(ge=1)] = 1.5
    text_grid: list[float] = []  # guidance values of the grid's columns; [] = no grid
    image_grid: list[float] = []  # and of its rows
    judge: str = "lab:judges"  # or "target": PSNR, SSIM and a perceptual distance, where there is one right answer
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
    parallel: Parallel = Parallel()
    tracking: Tracking = Tracking()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _one_average(self) -> Recipe:
        if self.optim.name == "schedule_free" and (self.train.ema_decay not in (0.0, []) or self.train.post_hoc_ema):
            raise ValueError(
                'optim.name = "schedule_free" averages by itself; set train.ema_decay = 0 and post_hoc_ema = false'
            )
        return self

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
