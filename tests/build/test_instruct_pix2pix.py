"""Generated pairs from end to end, with the shipped text-to-image model; killed and gone on with."""

from __future__ import annotations

import json
import multiprocessing
import re
import time
from pathlib import Path

import pytest

from editkit.build.engine import LocalEngine
from editkit.build.instruct_pix2pix import InstructPix2PixBuilder
from editkit.build.pipeline import build_spec, builder_of
from editkit.build.render import RenderOptions, RenderPairs
from editkit.data.read import open_dataset
from editkit.data.spec import load_spec
from editkit.errors import UserError
from tests.build.here import Here

ROOT = Path(__file__).parent.parent.parent
FORK = multiprocessing.get_context("fork")
SPEC = """\
format = 1
name = "generated"
kind = "edit_pairs"
licence = "CC0 1.0 and CC BY 4.0"
credit = "whoever drew it"
[build]
builder = "instruct_pix2pix"
train = 9
test = 2
seed = 1
[build.propose]
teacher = "grammar"
part_size = 4
[build.render]
model = "lab:tiny-sd"
samples = 3
guidance = [2.0, 6.0]
steps = 3
resolution = 32
batch_size = 4
prompts_per_part = 2
[build.filter]
clip = "lab:tiny-clip"
image = -1.0
direction = -1.0
source_caption = -1.0
target_caption = -1.0
keep = 2
"""


@pytest.fixture
def spec(workplace: Path) -> Path:
    Path("generated.toml").write_text(SPEC)
    return Path("generated.toml")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_generated_set_is_whole_and_says_where_each_example_comes_from(spec: Path) -> None:
    folder = build_spec(spec, None)
    dataset = open_dataset("generated.toml")
    assert (len(dataset), len(open_dataset("generated.toml", "test"))) == (18, 4)
    pair = dataset[0]
    assert re.fullmatch(r"train-000000-00[0-2]", pair.key)
    assert pair.source.open().size == pair.target.open().size == (32, 32)
    assert pair.source.read_bytes() != pair.target.read_bytes()
    assert pair.source_facts == {}
    assert pair.licence == "CC0 1.0 and CC BY 4.0"
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["provenance"]["stages"] == {
        "propose": {"kept": 11}, "select": {"kept": 11}, "render": {"kept": 33},
        "filter": {"kept": 22, "others agree better": 11},
    }  # fmt: skip
    import pyarrow.parquet as pq

    for row in pq.read_table(folder / "data").to_pylist():
        came = json.loads(row["provenance"])
        assert row["key"].startswith(came["proposal"])
        assert 0.1 <= came["share"] <= 0.9
        assert 2 <= came["guidance"] <= 6
        assert set(came["scores"]) == {"image", "direction", "source_caption", "target_caption"}
        assert came["teacher"]["name"] == "grammar of avatars"
        assert (came["renderer"]["model"], came["renderer"]["steps"]) == ("lab:tiny-sd", 3)
        assert len(came["renderer"]["model_sha256"]) == 16
        assert came["licence"] == row["licence"]
        assert came["asked"]["source"] != came["asked"]["target"]
    card = (folder / "README.md").read_text()
    assert "others agree better" in card
    assert "grammar of avatars" in card
    from datasets import load_dataset

    opened = load_dataset(str(folder), split="train")
    assert opened[0]["source"].size == (32, 32)


def _kill_at(spec: Path, parts: str) -> None:
    """Starts a build in a process that has imported everything, and kills it as soon as there is such a file in its staging."""
    process = FORK.Process(target=build_spec, args=(spec, Path("killed"), 0, Here()))
    process.start()
    try:
        while not list(Path("killed.staging").glob(parts)):  # no deadline: on a machine with other work it may take minutes
            assert process.is_alive(), f"ended before there was {parts}"
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()


@pytest.mark.slow
def test_a_build_that_is_killed_again_and_again_gives_the_bytes_of_one_that_was_not(spec: Path) -> None:
    whole = build_spec(spec, Path("whole"), 0, Here())
    for parts in ("work/0-*/*.parquet", "work/2-*/*.parquet", "work/2-*/train-000003.parquet", "work/3-*/*.parquet"):
        _kill_at(spec, parts)
        assert not Path("killed").exists()
    there = {p: p.stat().st_mtime_ns for p in Path("killed.staging").glob("work/2-*/*.parquet")}
    assert there
    killed = build_spec(spec, Path("killed"), 0, LocalEngine(2))
    assert _files(killed) == _files(whole)
    assert not Path("killed.staging").exists()


@pytest.mark.slow
def test_a_killed_build_that_releases_what_it_drew_gives_the_bytes_of_one_that_keeps_it(spec: Path) -> None:
    kept = build_spec(spec, Path("kept"), 0, Here())
    spec.write_text(SPEC + "release = true\n")
    for parts in ("work/3-*/*.parquet", "work/2-*/train-000002.released"):
        _kill_at(spec, parts)
        assert len(list(Path("killed.staging").glob("work/2-*/*.parquet"))) < 6
    assert _files(build_spec(spec, Path("killed"), 0, LocalEngine(2))) == _files(kept)
    assert len(open_dataset("killed")) == 18
    Path("data").mkdir()
    Path("killed").rename("data/generated")
    assert len(open_dataset("generated.toml")) == 18  # built from this version of the spec, too


def test_the_numbers_of_a_sample_depend_on_seed_proposal_and_sample_alone() -> None:
    stage = RenderPairs(RenderOptions(model="any"), 1, "")
    row = {"key": "train-000000", "caption": "a", "edited_caption": "b"}
    drawn = [stage.request(row, sample) for sample in range(200)]
    assert drawn == [stage.request(row, sample) for sample in range(200)]
    assert len({d.seed for d in drawn}) == 200
    assert 0.1 <= min(d.share for d in drawn) < 0.15
    assert 0.85 < max(d.share for d in drawn) <= 0.9
    assert 7.5 <= min(d.guidance for d in drawn) < 8
    assert 14.5 < max(d.guidance for d in drawn) <= 15
    assert RenderPairs(RenderOptions(model="any"), 2, "").request(row, 0) != drawn[0]
    assert stage.request({**row, "key": "train-000001"}, 0) != drawn[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('teacher = "grammar"', 'teacher = "grammer"'), "grammer"),
        (("steps = 3", "stepps = 3"), 'generated.toml:18: found unknown key "build.render.stepps"; did you mean "steps"'),
        (("part_size = 4", "part_sizes = 4"), 'unknown key "build.propose.part_sizes"; did you mean "part_size"'),
        (("part_size = 4", 'part_size = "x"'), 'generated.toml:13: "build.propose.part_size": found "x"'),
        (('"grammar"', '"grammer"'), "'grammar', 'chat', 'local'"),
        (("guidance = [2.0, 6.0]", "guidance = [6.0, 2.0]"), "expected [LOWEST, HIGHEST]"),
        (("guidance = [2.0, 6.0]", "share = [0.1, 1.5]"), "share"),
        (('licence = "CC0 1.0 and CC BY 4.0"\n', ""), "found no licence"),
        (('kind = "edit_pairs"', 'kind = "captioned_images"'), 'found kind = "captioned_images"'),
        (('model = "lab:tiny-sd"', 'model = "lab:tiny-sdd"'), 'found "lab:tiny-sdd"; expected a shipped model'),
        (('model = "lab:tiny-sd"', 'model = "lab:tiny-edit"'), "an editor; expected one that draws from text"),
        (("direction = -1.0", "direction = 0.999"), "low direction"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_wrong(change: tuple[str, str], words: str, spec: Path) -> None:
    assert change[0] in SPEC
    spec.write_text(SPEC.replace(*change).replace("train = 9", "train = 1").replace("test = 2", "test = 0"))
    with pytest.raises(UserError, match=re.escape(words)):
        build_spec(spec, None, 0, LocalEngine(1))
    assert not Path("data/generated").exists()


def test_a_builder_is_small_enough_to_travel() -> None:
    import pickle

    loaded = load_spec(ROOT / "data_specs" / "generated_edits.toml")
    builder = builder_of(*loaded)
    assert isinstance(builder, InstructPix2PixBuilder)
    assert all(len(pickle.dumps(stage)) < 1500 for stage in builder.stages(loaded[0]))
