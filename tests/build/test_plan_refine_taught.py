"""Plan traces of real scenes, from end to end: a real server plans and inspects, the lab's editor draws."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from editkit.build.pipeline import build_spec
from editkit.build.plan_refine_taught import SUBSETS
from editkit.build.proportions import largest_remainder
from editkit.data.pictures import Picture, png_bytes
from editkit.data.read import open_dataset
from editkit.data.trace_files import write_traces
from editkit.data.traces import PlanStep, PlanTrace, check_trace
from editkit.errors import UserError
from tests.build.chat_server import ChatServer
from tests.build.here import Here

SPEC = """\
format = 1
name = "taught"
kind = "plan_traces"
licence = "as the editor's"
[build]
builder = "plan_refine_taught"
train = 12
test = 0
[build.propose]
url = "{url}"
model = "any"
captions = "prompts.txt"
part_size = 6
[build.render]
model = "lab:tiny-edit"
steps = 1
image_guidance = 1.5
precision = "fp32"
resolution = 32
[build.inspect]
url = "{url}"
model = "any"
"""


@pytest.fixture
def spec(running: ChatServer, workplace: Path) -> Path:
    Path("taught.toml").write_text(SPEC.format(url=running.url))
    return Path("taught.toml")


def prompts(*marks: str) -> None:
    """Twelve prompts, the last ones with these marks for the server."""
    marked = ["", *marks, *marks] * 12
    Path("prompts.txt").write_text("".join(f"a dog of breed {i} and a red ball{marked[i]}\n" for i in range(12)))


def traces(spec: Path) -> list[PlanTrace]:
    dataset = open_dataset(str(spec))
    return [check_trace(dataset[i]) for i in range(len(dataset))]


def test_every_subset_comes_in_its_share_with_critiques_and_confirmed_corrections(spec: Path) -> None:
    prompts(" [wrong]")
    folder = build_spec(spec, None, engine=Here())
    facts = json.loads((folder / "dataset.json").read_text())
    stages = facts["provenance"]["stages"]
    assert stages["plan"] == {"kept": 12}
    found = traces(spec)
    subsets = Counter(t.category.partition(":")[0].partition(",")[0] for t in found)
    dropped = stages["inspect"]["a step was not drawn as planned"]
    assert dropped > 0
    assert Counter(largest_remainder(12, SUBSETS)) == subsets + Counter({"multi-turn": dropped})
    for trace in found:
        came = json.loads(trace.provenance)
        assert came["teacher"]["served_by"] == "loopback-1"
        assert came["renderer"]["name"] == "StableDiffusionInstructPix2PixPipeline"
        assert came["parent"].startswith("line ")
        assert all("\n" not in step.ins for step in trace.steps)
        last = trace.steps[-1]
        if trace.category.startswith("multi-turn"):
            assert "[wrong]" not in trace.prompt
            assert trace.final is not None
            assert [s.inspection for s in trace.steps] == [None, None]
        elif trace.category == "text-side, wrong":
            assert last.inspection is not None
            assert (last.inspection.on, last.inspection.refine) == ("plan", "Ask for a red ball.")
            assert last.inspection.issues == ("the ball is blue, not red", "it floats")
        elif trace.category == "image-side, misaligned":
            draft, last = trace.steps[-2:]
            assert draft.inspection is not None
            assert last.inspection is not None
            assert (draft.inspection.on, draft.need_loss.sketch, last.need_loss.sketch) == ("image", False, True)
            assert last.ins == draft.inspection.refine == "Paint the ball red."
            assert last.inspection.ok
            assert last.sketch is not None
            assert draft.sketch is not None
            assert last.sketch.read_bytes() != draft.sketch.read_bytes()
    assert {"text-side, wrong", "image-side, misaligned"} <= {t.category for t in found}


def test_corrections_that_do_not_help_and_plans_without_steps_are_dropped(spec: Path) -> None:
    prompts(" [wrong always]", " [no steps]")
    stages = json.loads((build_spec(spec, None, engine=Here()) / "dataset.json").read_text())["provenance"]["stages"]
    assert stages["plan"]["no usable reply"] == 4
    assert stages["confirm"].get("the correction did not help", 0) + stages["inspect"]["a step was not drawn as planned"] > 0
    assert not any(t.category == "image-side, misaligned" for t in traces(spec))


def test_the_plans_of_a_half_trained_model_are_judged(spec: Path) -> None:
    prompts()
    red = Picture(data=png_bytes(Image.new("RGB", (32, 32), "red")))
    steps = (PlanStep("Add a cat.", "a cat", red), PlanStep("Add a hat.", "a cat and a hat", red))
    write_traces(Path("sampled"), [PlanTrace(f"s-{i}", "a cat and a hat", steps, red, {}, "CC0 1.0") for i in range(3)])
    spec.write_text(spec.read_text().replace("test = 0", 'test = 0\nsampled = "sampled"'))
    build_spec(spec, None, engine=Here())
    judged = [t for t in traces(spec) if t.category.startswith("text-side")]
    assert sorted(json.loads(t.provenance)["parent"] for t in judged) == ["s-0", "s-1", "s-2"]
    assert all(step.sketch.read_bytes() == red.read_bytes() for t in judged for step in t.steps if step.sketch)
    spec.write_text(spec.read_text().replace("train = 12", "train = 40"))
    with pytest.raises(UserError, match=r"sampled: found 3 traces; \[build\] train = 40 needs 10: sample more"):
        build_spec(spec, None, engine=Here())


def test_the_same_bytes_twice_and_nothing_is_asked_twice(spec: Path, running: ChatServer) -> None:
    prompts(" [wrong]")
    one = build_spec(spec, Path("one"), engine=Here())
    before = len(running.requests())
    two = build_spec(spec, Path("two"), engine=Here())
    assert len(running.requests()) == before
    names = [p.relative_to(one) for p in one.rglob("*") if p.is_file()]
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in names)
