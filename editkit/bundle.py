"""What an issue report needs of a run, in one zip, without secrets: `editkit env --bundle RUN`.

Weights and data stay where they are. Every text that is packed goes through one scrubber, which takes out what looks like a
token, the value of every environment variable that is not on a short list and is more than a word, and the names of the user,
the machine and the home.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from editkit.environment import describe
from editkit.files import whole_file
from editkit.runs import find_run

HINT = "editkit env --bundle {run} packs what an issue report needs"
TAIL_LINES = 200  # of metrics.jsonl and pace.jsonl
PICTURE_BYTES = 100_000  # a larger picture of a failed batch is only listed
PICTURES_BYTES = 5_000_000  # and all of them together
LISTED_FILES = 5_000
# Variables that say how it computes; nothing else of the environment is packed.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "EDITKIT_CACHE_GB", "EDITKIT_QUIET", "HF_HUB_OFFLINE", "LOCAL_RANK", "MKL_NUM_THREADS",
    "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "RANK", "TRANSFORMERS_OFFLINE", "WANDB_MODE",
    "WORLD_SIZE",
)  # fmt: skip
MIN_SECRET = 8  # characters; a shorter value of a variable may be part of any text
SECRET_NAME = (
    r"(?:token(?!iz|s\b)|secret|passw(?:or)?d|passphrase|api[-_]?key|access[-_]?key|private[-_]?key|credentials?|authorization)"
)
SECRETS = (
    re.compile(r"\b(?:hf|api|org)_[A-Za-z0-9]{16,}"),  # Hugging Face
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"),
    re.compile(r"\b(?:sk|pk|rk)-[\w-]{16,}|\bAKIA[A-Z0-9]{12,}|\bAIza[\w-]{30,}|\bxox[a-z]-[\w-]{10,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # JSON web tokens
    re.compile(r"(?i)\bbearer\s+[\w.~+/=-]{8,}"),
    re.compile(r"(?<=://)[^\s/@\"']+(?=@)"),  # user:password@ of a URL
    re.compile(rf"(?i)(?<=[?&])[\w-]*{SECRET_NAME}[\w-]*=[^\s&\"']+"),
)
# key = value of TOML, JSON and shells, where the key says that the value is secret
NAMED = re.compile(rf"(?i)([\"']?\b[\w-]*{SECRET_NAME}[\w-]*[\"']?\s*[:=]\s*)(\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,}}\]#]+)")


def bundle(name: str) -> Path:
    """Packs a run into `RUN-bundle.zip` beside it.

    Args:
        name: a run folder, a name under `runs/`, or "latest".

    Returns:
        The zip; one of an earlier call is replaced when the new one is whole.

    Raises:
        UserError: there is no such run.
    """
    run = find_run(name).resolve()
    path = run.with_name(f"{run.name}-bundle.zip")
    clean = Scrubber(os.environ)
    with whole_file(path) as half, zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as packed:
        for inside, text in _texts(run):
            packed.writestr(f"{run.name}/{inside}", clean(text))
        for picture in _pictures(run):
            packed.write(picture, f"{run.name}/{picture.relative_to(run).as_posix()}")
    return path


class Scrubber:
    """Takes out of a text what nobody else should read; what stands in its place says what it was.

    Args:
        environment: variables, of which every value that is not on the short list is taken for a secret.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        secrets = {v for k, v in environment.items() if _may_be_secret(k, v)}
        self._secrets = sorted(secrets, key=len, reverse=True)  # the longest first, for one may be part of another
        self._places = _places()

    def __call__(self, text: str) -> str:
        for place, stands in self._places:
            text = place.sub(stands, text)
        for secret in self._secrets:
            for written in {secret, json.dumps(secret)[1:-1]}:
                text = text.replace(written, "<removed>")
        for pattern in SECRETS:
            text = pattern.sub("<removed>", text)
        return NAMED.sub(r'\1"<removed>"', text)


def _may_be_secret(name: str, value: str) -> bool:
    plain = re.fullmatch("[a-z]+", value) and not re.search(SECRET_NAME, name, re.IGNORECASE)  # a word
    return name not in VARIABLES and len(value) >= MIN_SECRET and not plain


def _places() -> list[tuple[re.Pattern[str], str]]:
    """The home, the current folder and the names of user and machine, the longest first."""
    found: dict[str, str] = {str(Path.cwd()): "<here>", str(Path.home()): "<home>"}
    found |= {str(Path(p).resolve()): stands for p, stands in list(found.items())}
    patterns = [
        (re.compile(re.escape(json.dumps(p)[1:-1]) + r"(?![\w.-])"), stands)
        for p, stands in sorted(found.items(), key=lambda pair: -len(pair[0]))
        if len(p) > 1
    ]
    homes = "|".join(rf"(?<=/{parent}/)[^/\s\"']+" for parent in ("home", "Users"))
    patterns.append((re.compile(homes + r"|(?<=\\\\Users\\\\)[^\\\s\"']+"), "<user>"))
    for name, stands in ((_user(), "<user>"), (platform.node(), "<machine>")):
        if len(name) > 2:
            patterns.append((re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"), stands))
    return patterns


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a process whose number has no name
        return ""


def _texts(run: Path) -> Iterator[tuple[str, str]]:
    """(name inside, text) of everything that is packed but the pictures."""
    for path in [run / "recipe.toml", run / "run.json", *_failures(run)]:
        if path.is_file():
            yield path.relative_to(run).as_posix(), _read(path)
    for name in ("metrics.jsonl", "pace.jsonl"):
        if (run / name).is_file():
            yield name, "\n".join(_read(run / name).splitlines()[-TAIL_LINES:]) + "\n"
    manifests = sorted(run.glob("checkpoints/step-*/manifest.json"))
    if manifests:
        yield manifests[-1].relative_to(run).as_posix(), _read(manifests[-1])
    yield "files.txt", _listing(run)
    yield "environment.json", json.dumps(_environment(), indent=1)
    yield "packages.txt", _packages()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _failures(run: Path) -> list[Path]:
    return sorted(run.glob("failures/*/batch.json"))


def _pictures(run: Path) -> Iterator[Path]:
    left = PICTURES_BYTES
    for path in sorted(p for batch in _failures(run) for p in batch.parent.glob("*.png")):
        size = path.stat().st_size
        if size <= min(PICTURE_BYTES, left):
            left -= size
            yield path


def _listing(run: Path) -> str:
    paths = sorted(p for p in run.rglob("*") if p.is_file())
    lines = [f"{p.stat().st_size:>14,}  {p.relative_to(run).as_posix()}" for p in paths[:LISTED_FILES]]
    more = [f"and {len(paths) - LISTED_FILES:,} more"] if len(paths) > LISTED_FILES else []
    return "\n".join([*lines, *more]) + "\n"


def _environment() -> dict[str, Any]:
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return {**describe(), "system": platform.platform(), "variables": variables}


def _packages() -> str:
    found = {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"
