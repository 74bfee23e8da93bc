"""Texts that are no instructions: nothing, a description, a file name, a prompt, a placeholder."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from editkit.data.doctor.findings import Finding

LONGEST = 600  # characters; a longer text is a page or a chat
COPIED = 0.9  # share of words that a text and a caption have in common
SHORT = 4  # words; a shorter caption may well be what an instruction says too

_ENDINGS = r"(?:png|jpe?g|webp|gif|bmp|tiff?|heic|psd|txt|json|safetensors|mp4)"


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_FILE = _any_of(
    rf"^\S+\.{_ENDINGS}$",
    r"^(?:\w:)?[\\/]\S+$",
    r"^\S+[\\/]\S+[\\/]\S+$",
    r"^(?:img|dscn?|image|photo|frame|target|source|screenshot)?[-_ ]?[\d_-]{3,}$",
    r"^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$",
    r"^[0-9a-f]{16,}$",
)
_ADDRESS = _any_of(r"^(?:https?|s3|gs|file)://\S+$", r"^<[^>]+>$")
_PLACEHOLDER = _any_of(
    r"^(?:n/?a|nan|none|null|nil|undefined|unknown|untitled|empty|todo|tbd|fixme|xxx+|test|caption|instruction|prompt|edit|text"
    r"|no (?:caption|instruction|prompt|text)|placeholder|lorem ipsum.*|string|\[.*\]|\{.*\})[.!?]?$"
)
_CHAT = _any_of(
    r"^i'?m sorry", r"^i am sorry", r"^sorry, (?:but )?i", r"^i can(?:'t|not| not) (?:help|assist|edit|see)", r"^as an ai\b",
    r"^here (?:is|are) (?:the|an?|some)\b", r"^(?:sure|certainly)[,!]",
    r"^the (?:first|second|source|target|edited|original) image",
)  # fmt: skip
_PROMPT = _any_of(
    r"\b(?:masterpiece|best quality|(?:highly|ultra)[- ]?detailed|trending on artstation|artstation|unreal engine"
    r"|octane render|8k|4k uhd|uhd|dslr|bokeh|cinematic lighting|sharp focus|hyperrealistic|photorealistic|high resolution)\b"
)
_WEIGHTED = _any_of(r"<lora:[^>]+>", r"\([^()]+:\d(?:\.\d+)?\)", r"^(?:1girl|1boy|solo)\b")
_MEDIA = r"(?:photo(?:graph)?|image|picture|painting|portrait|illustration|drawing|rendering|close-?up|screenshot)"
_DESCRIPTION = _any_of(
    rf"^(?:this|the) {_MEDIA} (?:shows|depicts|features|is)",
    rf"^there (?:is|are) an?\b.*\bin the {_MEDIA}",
    rf"^an? (?:\w+ ){{0,2}}{_MEDIA} (?:of|showing|with)\b",
)
_VERB = _any_of(
    r"\b(?:add|make|turn|change|remove|replace|give|put|let|swap|set|paint|colou?r|convert|delete|erase|take|have|show|draw"
    r"|move|keep|leave|do|crop|blur|sharpen|restore|fix|enhance|transform|apply|insert|as an?|into|instead|should|could|would"
    r"|want|please)\b"
)


def normalised(text: str) -> str:
    """What two texts that say the same have in common: no case, no accents' forms, no punctuation, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]", " ", folded).replace("_", " ").split())


def text_findings(
    key: str, texts: Sequence[str], captions: Sequence[str], index: int, names: Sequence[str] = ()
) -> Iterator[Finding]:
    """What is wrong with the instructions of a pair.

    Args:
        key: of the pair.
        texts: its instructions.
        captions: descriptions of its pictures, where there are any.
        index: its number.
        names: of its files.
    """
    said = [t for t in texts if t.strip()]
    if not said:
        yield Finding("empty text", key, "has no instruction", index)
        return
    if len(said) < len(texts):
        why = f"{len(texts) - len(said)} of {len(texts)} instructions are empty"
        yield Finding("empty text", key, why, index, severity="warning")
    for kind, faults in (
        ("copied text", copies_of(said, captions)),
        ("not an instruction", _no_instructions(said, key, names)),
    ):
        if faults:
            text, why = next(iter(faults.items()))
            only = f"{len(faults)} of {len(said)}: " if len(said) > 1 else ""
            severity = "error" if len(faults) == len(said) else "warning"
            yield Finding(kind, key, f'{only}"{_short(text)}" {why}', index, severity=severity)


def faulty_texts(texts: Sequence[str], captions: Sequence[str], key: str, names: Sequence[str] = ()) -> set[str]:
    """Those of the texts that are no instructions, for a repair that keeps the others."""
    empty = {t for t in texts if not t.strip()}
    return empty | copies_of(texts, captions).keys() | _no_instructions(texts, key, names).keys()


def copies_of(texts: Sequence[str], captions: Sequence[str]) -> dict[str, str]:
    """Texts that are one of the captions, nearly or exactly, with the reason."""
    found = {}
    known = [c for c in map(normalised, captions) if len(c.split()) >= SHORT]
    for text in texts:
        words = set(normalised(text).split())
        if any(len(words & set(c.split())) >= COPIED * len(words | set(c.split())) for c in known):
            found[text] = "is a caption of the picture"
        elif _DESCRIPTION.search(text) and not _VERB.search(text):
            found[text] = "describes a picture and asks for nothing"
    return found


def _no_instructions(texts: Sequence[str], key: str, names: Sequence[str]) -> dict[str, str]:
    return {t: why for t in texts if (why := _what_else(t.strip(), key, names))}


def _what_else(text: str, key: str, names: Sequence[str]) -> str:
    """What the text is, where it is no instruction; "" where it may be one."""
    if not text:
        return ""
    if text in (key, *names) or _FILE.match(text):
        return "is a file name or a number"
    if _ADDRESS.match(text):
        return "is an address or a tag"
    if _PLACEHOLDER.match(text) or not any(letter.isalpha() for letter in text):
        return "is a placeholder"
    if _CHAT.match(text):
        return "is what a chat model says about its task"
    if _WEIGHTED.search(text) or (len(_PROMPT.findall(text)) >= 2 and not _VERB.search(text.partition(",")[0])):
        return "is a prompt for a picture"
    if len(text) > LONGEST:
        return f"has {len(text)} characters"
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
