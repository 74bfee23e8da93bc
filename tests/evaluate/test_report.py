"""The report and its pictures."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from editkit.evaluate.charts import read_metrics, smooth
from editkit.evaluate.compare import compare
from editkit.evaluate.pictures import contact_sheet, enlarge, guidance_grid, triptych, wrap
from editkit.evaluate.report import write_report
from tests.publish.test_hub import make_run
from tests.tiny import picture


def run_with_examples(workplace: Path, name: str, instruction: str) -> Path:
    run = make_run(workplace / "runs" / name, None)
    lines = [
        {
            "kind": "train",
            "step": s,
            "loss": 1 / s,
            "lr": 1e-3,
            "samples_per_s": 50.0,
            "data_wait": 0.01,
            "samples": s,
            "time_s": s,
        }
        for s in range(1, 30)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"kind": "tra')
    (run / "previews").mkdir()
    picture("red", (300, 200)).save(run / "previews" / "step-000010.png")
    example = json.loads((run / "evaluation" / "examples.jsonl").read_text())
    marks = {"category": "add", "kept": 1.0, "outside_l1": 0.01, "instruction": instruction}
    cases = [example | marks | {"key": f"k{i}", "followed": float(i > 4), "wrong": [f"w{i}"]} for i in range(20)]
    (run / "evaluation" / "examples.jsonl").write_text("".join(json.dumps(c) + "\n" for c in cases))
    return run


def test_the_report_is_one_file_with_scores_worst_cases_and_no_markup_of_users(workplace: Path) -> None:
    run = run_with_examples(workplace, "small-1", "<script>alert(1)</script>")
    html = write_report(run).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    for words in (
        "81.5 %",
        "do nothing",
        "ignore the source",
        "worst",
        "median",
        "best",
        "w0",
        "data:image/png;base64,",
        "An Artist",
    ):
        assert words in html, words
    assert html.count("<svg") == 4


def test_a_cut_metrics_line_is_left_out(workplace: Path) -> None:
    run = run_with_examples(workplace, "small-1", "x")
    assert len(read_metrics(run / "metrics.jsonl")) == 29


def test_runs_are_compared_by_what_differs(workplace: Path) -> None:
    for name, lr in (("small-1", 1), ("small-2", 2)):
        run = run_with_examples(workplace, name, "x")
        (run / "recipe.toml").write_text(f'name = "{name}"\n[optim]\nlr = {lr}\nschedule = "cosine"\n')
    result = compare(["small-1", "small-2"])
    assert result["recipe"] == {"optim.lr": [1, 2]}
    assert result["scores"]["followed"] == [0.815, 0.815]
    assert Image.open(result["chart"]).width > 600


def test_smoothing_starts_without_bias() -> None:
    assert smooth([2.0, 2.0, 2.0]) == [2.0, 2.0, 2.0] or max(abs(x - 2) for x in smooth([2.0, 2.0, 2.0])) < 1e-12


def test_pictures_are_enlarged_pixel_by_pixel() -> None:
    large = enlarge(picture("red", (4, 4)), 3)
    assert large.size == (12, 12)
    assert large.getpixel((0, 0)) == large.getpixel((2, 2))


def test_sheets_hold_every_picture() -> None:
    images = [picture(c, (8, 8)) for c in ("red", "green", "blue")]
    sheet = contact_sheet(images, ["a", "b", "a much longer caption that wraps"], columns=2, scale=4)
    assert {sheet.getpixel((6 + 30, 6 + 30)), sheet.getpixel((6 + 38 + 30, 6 + 30))} == {(255, 0, 0), (0, 128, 0)}
    assert triptych([(images[0], images[1], images[2], "x")], scale=2).height > 16
    grid = guidance_grid([[images[0]] * 3] * 2, [1, 2, 3], [1, 2], images[1], "make it red", scale=4)
    assert grid.width >= 4 * 32


def test_wrapping_keeps_every_word() -> None:
    from PIL import ImageFont

    text = "make the hair red and the background mint"
    lines = wrap(text, 80, ImageFont.load_default(12))
    assert " ".join(lines) == text
    assert len(lines) > 2
