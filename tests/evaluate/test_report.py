"""The report: a whole run in one file, on runs as the training leaves them."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.charts import line_chart, read_metrics, smooth
from editkit.evaluate.compare import compare
from editkit.evaluate.pictures import guidance_grid, triptych
from editkit.evaluate.report import write_report
from editkit.evaluate.scores import figure, print_scores
from editkit.lab.avatar_edits import sample_edits

ATTACK = "<script>alert(1)</script>"
KINDS = ("add", "background", "colour", "keep")


def write_run(run: Path, *, count: int = 36, evaluated: bool = True, steps: int = 400) -> Path:
    """A run as `editkit train` leaves it: real avatars, whose "edits" are the target, or the source where the model failed.

    One of no steps has no curves and no previews, which are what takes time.
    """
    run.mkdir(parents=True)
    pairs = [(p.source.open(), p.target.open(), p.instructions[0]) for p in sample_edits(min(count, 12), seed=1)]
    rows = [(s, t if i % 3 else s, t, text) for i, (s, t, text) in enumerate(pairs)]
    _write_facts(run, steps)
    if steps:
        _write_metrics(run, steps)
        _write_previews(run, rows, steps)
    if evaluated:
        _write_evaluation(run / "evaluation", rows, count, 64)
    return run


def _write_previews(run: Path, rows: list[tuple[Any, ...]], steps: int) -> None:
    (run / "previews").mkdir()
    for step in range(100, steps + 1, 100):
        triptych(rows[:6]).save(run / "previews" / f"step-{step:06d}.png")
    source, edit, _, text = rows[1]
    grid = guidance_grid([[edit] * 4] * 3, [1.5, 3, 5, 7.5], [1, 1.5, 2], source, text)
    grid.save(run / "previews" / f"step-{steps:06d}-grid.png")


def _write_facts(run: Path, steps: int) -> None:
    facts = {
        "format": 1, "name": "instructpix2pix", "method": "instruct_edit", "base": "lab:tiny-sd", "seed": 0, "state": "done",
        "recipe_sha256": "f" * 64, "trained_parameters": 9_812_340, "steps": steps, "samples": 64 * steps, "seconds": 691.4,
        "started": "2026-11-23T02:03:35+00:00", "finished": "2026-11-23T02:17:13+00:00",
        "data": {
            "name": "avatar_edits", "kind": "edit_pairs", "sha256": "9a36" * 16, "counts": {"train": 24000, "test": 2000},
            "licences": {"CC BY 4.0": {"count": 17237, "credit": "Personas by Draftbit"}, "CC0 1.0": {"count": 8763}},
            "categories": {}, "skipped": 0,
        },
        "versions": {"editkit": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "machine": {"device": "cpu", "name": "a small CPU", "threads": 2, "system": "Linux"},
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(facts))
    recipe = 'name = "instructpix2pix"\ndescription = "InstructPix2Pix on avatar edits."\n\n[optim]\nlr = 5e-4\n'
    (run / "recipe.toml").write_text(recipe)


def _scores(followed: float, kept: float, l1: float, n: int = 500) -> dict[str, Any]:
    marks = {"kept": kept, "outside_l1": l1, "n": n // len(KINDS)}
    return {
        "followed": followed, "kept": kept, "outside_l1": l1, "outside_psnr": -20 * math.log10(l1 + 1e-5),
        "clip_direction": followed / 2, "clip_image": kept, "n": n,
        "by_category": {k: marks | {"followed": None if k == "keep" else followed} for k in KINDS},
        "by_attribute": {a: {"followed": followed, "n": 40} for a in ("hair", "hair colour", "eyewear", "background")},
    }  # fmt: skip


def _baselines() -> dict[str, Any]:
    return {"do_nothing": _scores(0.004, 1.0, 0.0), "ignore_source": _scores(0.61, 0.24, 0.31)}


def _write_metrics(run: Path, steps: int) -> None:
    noise = random.Random(0)
    lines: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        done = step / steps
        loss = 0.9 * math.exp(-3 * done) + 0.12 + noise.uniform(-0.03, 0.03)
        rate = {"samples_per_s": 58 + noise.uniform(-3, 3), "data_wait": 0.02 + noise.uniform(0, 0.01)}
        where = {"step": step, "samples": 64 * step, "time_s": step * 1.7}
        lr = 5e-4 * (1 + math.cos(math.pi * done)) / 2
        lines.append({"kind": "train", **where, "loss": loss, "lr": lr, "grad_norm": 1.0, **rate})
        if step % 100 == 0:
            scores = _scores(0.85 * done, 1 - 0.1 * (1 - done), 0.06 - 0.03 * done, 64)
            lines.append({"kind": "eval", **where, "scores": scores, "baselines": _baselines()})
    lines.append({"kind": "final", "step": steps, "samples": 64 * steps, "scores": _scores(0.815, 0.961, 0.028)})
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"kind": "tra')


def _write_evaluation(folder: Path, rows: list[tuple[Any, ...]], count: int, size: int) -> None:
    (folder / "images").mkdir(parents=True)
    settings = {"judge": "lab:judges", "steps": 16, "text_guidance": 3.0, "image_guidance": 1.5, "seed": 0}
    scores = {"scores": _scores(0.815, 0.961, 0.028), "baselines": _baselines(), "settings": settings}
    (folder / "scores.json").write_text(json.dumps(scores))
    with (folder / "examples.jsonl").open("w") as file:
        for i in range(count):
            *pictures, instruction = rows[i % len(rows)]
            names = {role: f"images/{i:05d}-{role}.png" for role in ("source", "edit", "target")}
            for name, picture in zip(names.values(), pictures, strict=True):
                picture.resize((size, size)).save(folder / name)
            kind = KINDS[i % len(KINDS)]
            right = i % 3 > 0
            line = {
                "key": f"{i:05d}", "category": kind, "instruction": instruction, **names,
                "followed": None if kind == "keep" else float(right), "kept": 1.0 if right else 0.8,
                "outside_l1": 0.01 + i / 1e4,
                "wrong": [] if right else [f"hair: bun instead of bob ({i})", "mouth became open"],
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")


def change_examples(run: Path, **changes: Any) -> None:
    path = run / "evaluation" / "examples.jsonl"
    path.write_text("".join(json.dumps(json.loads(s) | changes) + "\n" for s in path.read_text().splitlines()))


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and the text one reads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += re.sub(r"\s+", " ", data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "instructpix2pix-20261123-020335")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "words",
    [
        "instructpix2pix-20261123-020335", "InstructPix2Pix on avatar edits.", "23 November 2026, 02:03",
        "9,812,340 parameters (instruct edit on lab:tiny-sd)", "avatar_edits, 24,000 training examples",
        "11 min 31 s for 25,600 samples", "a small CPU, 2 threads", "81.5 %", "96.1 %", "0.028", "61.0 %", "24.0 %",
        "“Do nothing” returns the source", "“Ignore the source” draws from the instruction", "hair colour", "CC BY 4.0",
        "Personas by Draftbit", "torch 2.13.0", "lr = 5e-4", "best", "median", "worst", "Wrong: hair: bun",
        "editkit edit PICTURE", "editkit demo edit --run instructpix2pix-20261123-020335", "editkit publish",
        "learning rate", "time spent waiting for data", "samples a second",
        "Step 100", "Step 300", "Step 400", "Guidance grid at step 400",
    ],
)  # fmt: skip
def test_the_report_says(page: Page, words: str) -> None:
    assert words in page.text


def test_the_report_needs_nothing_else(page: Page) -> None:
    assert not page.all("script") + page.all("link") + page.all("iframe")
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value[:60])
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_pictures_and_curves_have_words_and_tables_have_headers(page: Page) -> None:
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") and a.get("role") == "img" for a in page.all("svg"))
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    labels = [str(a["aria-label"]) for a in page.all("svg")]
    assert any(s.startswith("followed: 0.212 at step 100, 0.85 at step 400; do nothing 0.004") for s in labels), labels
    ids = [str(a["id"]) for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_worst_cases_are_the_worst(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    section = Page(html[html.index("<h3>add<") : html.index("<h3>background<")]).text
    best, median, worst = re.split("median|worst", section)
    assert "followed 100.0 % kept 100.0 %" in best
    assert "Wrong" not in best + median
    assert worst.count("Wrong: hair: bun instead of bob") == 2
    assert "(24)" in worst  # of the failures, the one that changed most outside the mask
    assert "Page" not in section


@pytest.mark.parametrize("field", ["instruction", "category", "wrong"])
def test_what_users_wrote_stays_text(tmp_path: Path, field: str) -> None:
    run = write_run(tmp_path / "run", count=6, steps=0)
    change_examples(run, **{field: [ATTACK, '"><img src=x onerror=alert(1)>'] if field == "wrong" else ATTACK})
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert ATTACK in page.text
    assert not page.all("script")
    assert all(str(a["src"]).startswith("data:") and "onerror" not in a for a in page.all("img"))


def test_names_of_files_and_scores_stay_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run <b>&", evaluated=False, steps=0)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "eval", "step": 1, "scores": {ATTACK: 0.5, "psnr": 20.0}}) + "\n")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert not page.all("script") + page.all("b")
    assert "run <b>&" in page.text


def test_only_pictures_get_in(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", count=6, steps=0)
    (tmp_path / "secret.txt").write_text("a secret")
    change_examples(run, edit="../../secret.txt", target="images/gone.png")
    html = write_report(run).read_text(encoding="utf-8")
    assert Page(html).text.count("picture missing") == 12


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluated=False, steps=0)
    facts = json.loads((run / "run.json").read_text())
    for name in ("seconds", "samples", "finished"):
        del facts[name]
    (run / "run.json").write_text(json.dumps(facts | {"state": "running"}))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "has not been evaluated" in text
    assert "its state is “running”" in text
    assert "worst" not in text


def test_a_run_that_wrote_nothing_yet_has_a_report(tmp_path: Path) -> None:
    _write_facts(tmp_path, 0)
    assert "has not been evaluated" in write_report(tmp_path).read_text(encoding="utf-8")


def test_scores_of_other_methods_are_shown_as_they_are(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluated=False, steps=0)
    scores = {"scores": {"accuracy": 0.9991, "worst": 0.98, "n": 2000}, "by_attribute": {"facial hair": 0.9912}}
    scores |= {"by_category": {"colour": 0.8765}}
    (run / "evaluation").mkdir()
    (run / "evaluation" / "scores.json").write_text(json.dumps(scores))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "99.91 %" in text
    assert "99.12 %" in text
    assert "87.65 %" in text


def test_a_folder_that_is_no_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no run\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize("size", [64, 320])
def test_the_file_stays_small(tmp_path: Path, size: int) -> None:
    """500 examples in more kinds than are shown, with pictures that do not compress."""
    run = write_run(tmp_path / "run", evaluated=False, steps=0)
    noise = Image.merge("RGB", [Image.effect_noise((size, size), 90) for _ in range(3)])
    _write_evaluation(run / "evaluation", [(noise, noise, noise, "x")], 1, size)
    path = run / "evaluation" / "examples.jsonl"
    example = json.loads(path.read_text())
    path.write_text("".join(json.dumps(example | {"category": f"kind {i % 30:02d}"}) + "\n" for i in range(500)))
    report = write_report(run)
    assert Page(report.read_text(encoding="utf-8")).text.count("target") == 12 * 6
    assert 12 * 6 * 3 * 5_000 < report.stat().st_size < 6e6 - 4 * 600_000  # with room for four sheets


def test_a_cut_metrics_line_is_left_out(run: Path) -> None:
    assert len(read_metrics(run / "metrics.jsonl")) == 40 + 4 + 1


def test_curves_take_their_colours_from_the_page() -> None:
    svg = line_chart("a & <b>", {"run": ([1, 2], [0.1, 0.2])}, levels={"do nothing": 0.0}, share=True)
    assert "a &amp; &lt;b&gt;: 0.1 at step 1, 0.2 at step 2; do nothing 0" in svg
    assert set(re.findall(r"(?:fill|stroke): (#\w+|var\(--\w+\))", svg)) == {"var(--soft)", "var(--c0)", "var(--c1)"}


def test_smoothing_starts_without_bias_and_follows() -> None:
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([0.0] * 50 + [1.0] * 50)[-1] == pytest.approx(1, abs=0.01)


def test_runs_are_compared_by_what_differs(workplace: Path) -> None:
    for name, lr in (("small-1", 1), ("small-2", 2)):
        run = write_run(workplace / "runs" / name, count=2, steps=0)
        (run / "recipe.toml").write_text(f'name = "{name}"\n[optim]\nlr = {lr}\nschedule = "cosine"\n')
    result = compare(["small-1", "small-2"])
    assert result["recipe"] == {"optim.lr": [1, 2]}
    assert result["scores"]["followed"] == [0.815, 0.815]
    assert Image.open(result["chart"]).width > 600


def test_scores_are_printed_beside_both_baselines_and_by_kind(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(json.loads((run / "evaluation" / "scores.json").read_text()))
    out = capsys.readouterr().out
    assert re.search(r"score\W+this run\W+do nothing\W+ignore the source", out)
    assert re.search(r"followed\W+81\.5 %\W+0\.4 %\W+61\.0 %", out), out
    assert re.search(r"kept\W+96\.1 %\W+100\.0 %\W+24\.0 %", out), out
    keep = next(s for s in out.splitlines() if "keep" in s)
    assert " - " in keep
    assert "96.1 %" in keep


def test_scores_of_other_methods_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores({"scores": {"psnr": 32.75, "n": 1000, "by_attribute": {"hair": 1.0}}})
    out = capsys.readouterr().out
    assert "32.8 dB" in out
    assert "hair" not in out


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("followed", 0.815, "81.5 %"), ("kept", None, "-"), ("outside_l1", math.nan, "-"), ("outside_psnr", 30.04, "30.0 dB"),
        ("n", 500, "500"), ("worst", 0.99912, "99.91 %"), ("clip_image", 0.9, "0.900"),
    ],
)  # fmt: skip
def test_figures_read_as_people_write_them(name: str, value: float | None, text: str) -> None:
    assert figure(name, value) == text
