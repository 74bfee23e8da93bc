"""The shapes of other trainers' folders and of evaluation sets; see `tests.data.shapes`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.data.shapes import LEFT_HALF, Pair, cut_out, jsonl, parquet, png, shape, tar, text
from tests.tiny import encoded, picture


@shape("example_pairs")
def _(root: Path) -> list[Pair]:
    png(root / "before/cat.jpg", "red")
    png(root / "after/cat.jpg", "blue")
    text(root / "after/cat.txt", "make it blue\nblue\n")
    return [Pair("red", "blue", ["make it blue", "blue"], {"key": "cat"})]


@shape("example_ai_toolkit")
def _(root: Path) -> list[Pair]:
    for folder, colour in (("control", "red"), ("control_2", "lime"), ("images", "blue")):
        png(root / f"dataset/{folder}/1.png", colour)
    text(root / "dataset/images/1.txt", "wear its hat")
    return [Pair("red", "blue", ["wear its hat"], {"references": ["lime"]})]


@shape("example_musubi_folder")
def _(root: Path) -> list[Pair]:
    for name, colour in (("images/1", "blue"), ("control/1_0", "red"), ("control/1_1", "lime"), ("images/b", "green")):
        png(root / f"dataset/{name}.png", colour)
    png(root / "dataset/control/b.png", "black")
    text(root / "dataset/images/1.txt", "wear its hat")
    text(root / "dataset/images/b.txt", "light")
    return [
        Pair("red", "blue", ["wear its hat"], {"references": ["lime"]}),
        Pair("black", "green", ["light"], {"references": []}),
    ]


@shape("example_musubi_jsonl")
def _(root: Path) -> list[Pair]:
    png(root / "dataset/c.png", "red")
    png(root / "dataset/t.png", "blue")
    rows = [{"image_path": "t.png", "caption": "make it blue", name: "c.png"} for name in ("control_path", "control_path_0")]
    jsonl(root / "dataset/dataset.jsonl", *rows)
    return [Pair("red", "blue", ["make it blue"])] * 2


@shape("example_simpletuner")
def _(root: Path) -> list[Pair]:
    png(root / "conditioning/1.png", "red")
    png(root / "images/1.png", "blue")
    text(root / "images/1.txt", "make it blue")
    return [Pair("red", "blue", ["make it blue"])]


@shape("example_diffsynth")
def _(root: Path) -> list[Pair]:
    png(root / "dataset/a/1.png", "red")
    png(root / "dataset/b/1.png", "blue")
    with (root / "dataset/metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "prompt", "edit_image"])
        writer.writerow(["b/1.png", "make it blue,\nall of it", "a/1.png"])
    return [Pair("red", "blue", ["make it blue,\nall of it"])]


@shape("example_step1x")
def _(root: Path) -> list[Pair]:
    png(root / "dataset/s.png", "red")
    png(root / "dataset/t.png", "blue")
    rows = {"t.png": {"ref_image_path": "s.png", "caption": "make it blue"}}
    text(root / "dataset/metadata.json", json.dumps(rows))
    return [Pair("red", "blue", ["make it blue"])]


@shape("example_firered")
def _(root: Path) -> list[Pair]:
    for name, colour in (("s", "red"), ("r", "lime"), ("t", "blue")):
        png(root / f"dataset/{name}.png", colour)
    texts = {"instruction": "make it blue", "instruction_cn": "变成蓝色", "inverse_instruction": "make it red"}
    jsonl(root / "dataset/train.jsonl", {"source_image": ["s.png", "r.png"], "target_image": "t.png", **texts})
    return [
        Pair("red", "blue", ["make it blue", "变成蓝色"], {"references": ["lime"]}),
        Pair("blue", "red", ["make it red"], {"references": []}),
    ]


@shape("example_longcat")
def _(root: Path) -> list[Pair]:
    png(root / "dataset/s.png", "red")
    png(root / "dataset/t.png", "blue")
    size = {"width": 32, "height": 32}
    sft = {"img_path": "t.png", "ref_img_path": "s.png", "prompt": "make it blue", **size}
    dpo = {"img_path_win": "t.png", "img_path_lose": "s.png", "ref_img_path": "s.png", "prompt": "blue", **size}
    jsonl(root / "dataset/train.jsonl", sft, dpo)
    return [Pair("red", "blue", ["make it blue"]), Pair("red", "blue", ["blue"])]


@shape("example_webdataset")
def _(root: Path) -> list[Pair]:
    members = {}
    for number, score in (("000", 8.5), ("001", 3.0), ("002", 9.0)):
        members |= {f"{number}.source.jpg": encoded(picture("red")), f"{number}.target.jpg": encoded(picture("blue"))}
        members[f"{number}.json"] = json.dumps({"instruction": f"make it {number}", "score": score}).encode()
    tar(root / "shards/0000.tar", members)
    return [Pair("red", "blue", [f"make it {n}"], {"key": n}) for n in ("000", "002")]


@shape("example_images")
def _(root: Path) -> list[Pair]:
    png(root / "pictures/a.png", "red")
    png(root / "pictures/dogs/b.jpg", "blue")
    text(root / "pictures/a.txt", "a red picture\nred\n")
    text(root / "pictures/dogs/b.txt", "a dog")
    return [Pair("red", None, ["a red picture", "red"], {"key": "a"}), Pair("blue", None, ["a dog"], {"key": "dogs/b"})]


@shape("magicbrush_test")
def _(root: Path) -> list[Pair]:
    folder = root / "MagicBrush-test/test"
    for name, colour in (("input", "red"), ("output1", "green"), ("output2", "blue")):
        png(folder / f"images/9/9-{name}.png", colour)
    for number in (1, 2):
        (folder / f"images/9/9-mask{number}.png").write_bytes(cut_out()["bytes"])
    names = (
        ("9-input.png", "9-mask1.png", "9-output1.png", "green"),
        ("9-output1.png", "9-mask2.png", "9-output2.png", "blue"),
    )
    turns = [dict(zip(("input", "mask", "output", "instruction"), turn, strict=True)) for turn in names]
    text(folder / "edit_sessions.json", json.dumps({"9": turns}))
    return [
        Pair("red", "green", ["green"], {"key": "9/9-output1.png"} | LEFT_HALF),
        Pair("green", "blue", ["blue"], {"key": "9/9-output2.png"} | LEFT_HALF),
    ]


@shape("emu_edit_test")
def _(root: Path) -> list[Pair]:
    texts = {"instruction": "make it blue", "task": "color", "hash": "ab", "input_caption": "a", "output_caption": "b"}
    for split in ("validation", "test"):
        row = {"image": "red", "split": split, "idx": 4, **texts}
        parquet(root / f"emu_edit_test_set/data/{split}-00000-of-00002.parquet", [row], ("image",))
    return [Pair("red", None, ["make it blue"], {"category": "color", "key": "test-4", "target_caption": "b"})]


@shape("gedit_bench")
def _(root: Path) -> list[Pair]:
    texts = {"task_type": "color_alter", "key": "k1", "instruction": "make it blue", "instruction_language": "en"}
    row = {**texts, "input_image": "red", "input_image_raw": "red", "Intersection_exist": True}
    parquet(root / "GEdit-Bench/data/train-00000-of-00004.parquet", [row], ("input_image", "input_image_raw"))
    return [Pair("red", None, ["make it blue"], {"category": "color_alter", "key": "k1"})]


@shape("kontext_bench")
def _(root: Path) -> list[Pair]:
    png(root / "kontext-bench/test/images/1.jpg", "red")
    row = {"file_name": "images/1.jpg", "instruction": "make it blue", "category": "Instruction Editing - Local"}
    jsonl(root / "kontext-bench/test/metadata.jsonl", row)
    return [Pair("red", None, ["make it blue"], {"category": "Instruction Editing - Local"})]


@shape("imgedit_bench")
def _(root: Path) -> list[Pair]:
    png(root / "ImgEdit-Bench/animal/1.jpg", "red")
    rows = {"1082": {"id": "animal/1.jpg", "prompt": "make it blue", "edit_type": "adjust"}}
    text(root / "ImgEdit-Bench/basic_edit.json", json.dumps(rows))
    return [Pair("red", None, ["make it blue"], {"category": "adjust", "key": "1082"})]


@shape("risebench")
def _(root: Path) -> list[Pair]:
    png(root / "RISEBench/data/temporal_reasoning_images/1.png", "red")
    row = {"index": "temporal_1", "category": "temporal_reasoning", "instruction": "an hour later"}
    text(
        root / "RISEBench/data/data.json",
        json.dumps([{**row, "image": "temporal_reasoning_images/1.png", "reference": "dark"}]),
    )
    return [Pair("red", None, ["an hour later"], {"category": "temporal_reasoning", "key": "temporal_1"})]
