"""Writes docs/FORMATS.md, the table of all data sets and layouts that data specs read: python scripts/formats_page.py."""

from __future__ import annotations

from pathlib import Path

from editkit.data.plan import describe
from editkit.data.spec import DataSpec, load_spec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "FORMATS.md"

HEAD = """\
# Data sets and layouts that can be read

This page is made from `data_specs/` by `scripts/formats_page.py`; a test compares them.

`editkit check data_specs/NAME.toml` says what a spec reads, where the data come from and how to get them, whether they are
here or not; where they are, it opens every picture. To train on one, name the spec, `--set data.train=data_specs/NAME.toml`,
or mix several with `[[data.mix]]`.

**Comes as**: *hub* is read from the Hugging Face Hub a row group at a time, or from a copy at `read.path`; the others need a
copy first. **Not verified** counts the keys whose value nobody has read yet at its source; the spec names them.

No data set comes with editkit. A licence is that of its authors; NC and ND forbid what they say.
"""
COLUMNS = "\n| name | rows | licence | comes as | {} | not verified | spec |\n|---|---|---|---|---|---|---|\n"
TRAINING = "\n## For training\n" + COLUMNS.format("peculiar")
EVALUATION = """
## For evaluation alone

All of them are test. They are refused as training data, and a recipe with
`[data] keep_out = ["data_specs/magicbrush_test.toml"]` ends with one line where an example of theirs is in its data: the same
words with the same picture, in whatever format or size.
""" + COLUMNS.format("targets")
LAYOUTS = "\n## Your own pictures, and other trainers' folders\n\n| layout | what it is | spec |\n|---|---|---|\n"


def page() -> str:
    """The text of the page."""
    training, evaluation, layouts = [], [], []
    for path in sorted((ROOT / "data_specs").glob("*.toml")):
        spec, _ = load_spec(path)
        if spec.read is None:
            continue
        place = f"`data_specs/{path.name}`"
        if path.stem.startswith("example_"):
            layouts.append(f"| {spec.read.layout} | {_first_sentence(path)} | {place} |\n")
            continue
        last = _peculiar(spec) if spec.role == "training" else ("yes" if spec.kind == "edit_pairs" else "none")
        about = f"about {spec.expect.about:,}" if spec.expect.about else "not known"
        rows = f"{spec.expect.rows:,}" if spec.expect.rows else about
        unverified = len(spec.unverified) or ""
        line = f"| {_link(spec)} | {rows} | {spec.licence} | {_comes_as(spec)} | {last} | {unverified} | {place} |\n"
        (training if spec.role == "training" else evaluation).append(line)
    return HEAD + TRAINING + "".join(training) + EVALUATION + "".join(evaluation) + LAYOUTS + "".join(layouts)


def _link(spec: DataSpec) -> str:
    return f"[{spec.name}]({spec.homepage})" if spec.homepage else spec.name


def _comes_as(spec: DataSpec) -> str:
    assert spec.read is not None
    if describe(spec, ROOT / "data_specs")["streams"]:
        return "hub"
    return "tables and archives" if spec.read.archives else "parquet" if spec.read.layout == "hf" else "tables and pictures"


def _peculiar(spec: DataSpec) -> str:
    read = spec.read
    assert read is not None
    columns = read.columns
    found = {
        "turns": read.turns is not None,
        "sessions": columns.group,
        "both ways": columns.inverse,
        "masks": columns.mask,
        "references": columns.references,
        "scores": columns.scores,
        "captions": columns.source_caption or columns.target_caption,
    }
    return ", ".join(name for name, is_so in found.items() if is_so)


def _first_sentence(path: Path) -> str:
    lines = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = " ".join(lines[: next((i for i, line in enumerate(lines) if not line), len(lines))])
    return text.partition(": ")[0] if ": " in text[:60] else text.split(". ")[0].rstrip(".:")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
