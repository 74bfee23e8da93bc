"""Small files of exactly the shape of each public data set, from its documented schema, and what must be read from them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from tests.tiny import encoded, picture


@dataclass
class Pair:
    """What one example must be: pictures by their colours, texts, and further attributes by name."""

    source: str
    target: str | None
    texts: list[str]
    more: dict[str, Any] = field(default_factory=dict)


Shape = Callable[[Path], list[Pair]]
SHAPES: dict[str, Shape] = {}


def shape(*names: str) -> Callable[[Shape], Shape]:
    def register(make: Shape) -> Shape:
        SHAPES.update(dict.fromkeys(names, make))
        return make

    return register


def image(colour: str | None) -> dict[str, Any] | None:
    """A cell of a Hugging Face image column."""
    return None if colour is None else {"bytes": encoded(picture(colour)), "path": None}


def parquet(path: Path, rows: list[dict[str, Any]], images: tuple[str, ...]) -> None:
    """A parquet file as the Hub has it; cells of `images` are colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{k: image(v) if k in images and not isinstance(v, dict) else v for k, v in row.items()} for row in rows]
    table = datasets.Dataset.from_list(cells)
    for name in images:
        table = table.cast_column(name, datasets.Image())
    table.to_parquet(path)


def png(path: Path, colour: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(colour).save(path, "JPEG" if path.suffix == ".jpg" else "PNG", quality=100)
    return path.name


def text(path: Path, said: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(said, encoding="utf-8")


def jsonl(path: Path, *rows: Mapping[str, Any]) -> None:
    text(path, "".join(json.dumps(r) + "\n" for r in rows))


def tar(path: Path, members: Mapping[str, bytes], parts: int = 1) -> None:
    """A tar file, or `parts` pieces of one, named as ImgEdit names them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = stream.getvalue()
    if parts == 1:
        path.write_bytes(whole)
        return
    step = len(whole) // parts + 1
    for number in range(parts):
        Path(f"{path}.split.{number:03d}").write_bytes(whole[number * step : (number + 1) * step])


def cut_out(colour: str = "grey") -> dict[str, Any]:
    """A mask as a hole in a picture: the left half is transparent."""
    hole = picture(colour).convert("RGBA")
    hole.paste((0, 0, 0, 0), (0, 0, 16, 32))
    return {"bytes": encoded(hole), "path": None}


def half_white() -> dict[str, Any]:
    """The same in white and black."""
    mask = Image.new("RGB", (32, 32))
    mask.paste("white", (0, 0, 16, 32))
    return {"bytes": encoded(mask), "path": None}


LEFT_HALF = {"mask": (255, 0)}  # what a mask must show, in its left and in its right half


@shape("example_folder")
def _(root: Path) -> list[Pair]:
    png(root / "my_edits/a.png", "red")
    png(root / "my_edits/b.png", "blue")
    jsonl(root / "my_edits/metadata.jsonl", {"before": "a.png", "after": "b.png", "text": ["make it blue", "blue"]})
    return [Pair("red", "blue", ["make it blue", "blue"])]


@shape("example_huggingface")
def _(root: Path) -> list[Pair]:
    rows = [{"input_image": "red", "edit_prompt": "make it blue", "edited_image": "blue"}]
    parquet(root / "my_dataset/train.parquet", rows, ("input_image", "edited_image"))
    return [Pair("red", "blue", ["make it blue"])]


@shape("instructpix2pix_1000_samples")
def _(root: Path) -> list[Pair]:
    rows = [{"input_image": "red", "edit_prompt": "make it blue", "edited_image": "blue"}]
    parquet(root / "instructpix2pix-1000-samples/data/train-00000-of-00001.parquet", rows, ("input_image", "edited_image"))
    return [Pair("red", "blue", ["make it blue"])]


@shape("instructpix2pix_clip_filtered")
def _(root: Path) -> list[Pair]:
    texts = {"original_prompt": "a red house", "edit_prompt": "make it blue", "edited_prompt": "a blue house"}
    for number in range(2):
        rows = [{"original_image": "red", "edited_image": "blue", **texts}]
        path = root / f"instructpix2pix-clip-filtered/data/train-{number:05d}-of-00002-abc.parquet"
        parquet(path, rows, ("original_image", "edited_image"))
    more = {"source_caption": "a red house", "target_caption": "a blue house"}
    return [Pair("red", "blue", ["make it blue"], {"key": f"{n:06d}"} | more) for n in range(2)]


@shape("instructpix2pix_original")
def _(root: Path) -> list[Pair]:
    expected = []
    for number, colours in (("0000000", ("red", "blue")), ("0000012", ("green", "white"))):
        folder = root / "clip-filtered-dataset" / number
        png(folder / "42_0.jpg", colours[0])
        png(folder / "42_1.jpg", colours[1])
        text(folder / "prompt.json", json.dumps({"input": "a", "edit": "make it so", "output": "b", "url": "http://x"}))
        sims = {"clip_sim_0": 0.3, "clip_sim_1": 0.31, "clip_sim_dir": 0.25, "clip_sim_image": 0.8}
        jsonl(folder / "metadata.jsonl", {"seed": 42, "p2p_threshold": 0.5, "cfg_scale": 9.0, **sims})
        more = {"key": f"{number}/42", "source_caption": "a", "target_caption": "b", "scores": sims}
        expected.append(Pair(*colours, ["make it so"], more))
    text(root / "clip-filtered-dataset/seeds.json", json.dumps([["0000000", ["42"]], ["0000012", ["42"]]]))
    return expected


@shape("cartoonization")
def _(root: Path) -> list[Pair]:
    rows = [{"original_image": "red", "edit_prompt": "Cartoonize it", "cartoonized_image": "blue"}]
    parquet(root / "cartoonization/data/train-00000-of-00005.parquet", rows, ("original_image", "cartoonized_image"))
    return [Pair("red", "blue", ["Cartoonize it"])]


@shape("low_level_image_proc")
def _(root: Path) -> list[Pair]:
    rows = [{"instruction": "derain the image", "input_image": "red", "ground_truth_image": "blue"}]
    parquet(root / "low-level-image-proc/data/train-00000-of-00001.parquet", rows, ("input_image", "ground_truth_image"))
    return [Pair("red", "blue", ["derain the image"])]


@shape("magicbrush")
def _(root: Path) -> list[Pair]:
    def row(turn: int, source: str, target: str, said: str) -> dict[str, Any]:
        pictures = {"source_img": source, "mask_img": cut_out(), "target_img": target}
        return {"img_id": "331923", "turn_index": turn, "instruction": said, **pictures}

    images = ("source_img", "mask_img", "target_img")
    parquet(
        root / "MagicBrush/data/train-00000-of-00051.parquet",
        [row(1, "red", "green", "make it green"), row(2, "green", "blue", "now blue")],
        images,
    )
    parquet(root / "MagicBrush/data/dev-00000-of-00004.parquet", [row(1, "white", "black", "night")], images)
    return [
        Pair("red", "green", ["make it green"], {"key": "331923-1"} | LEFT_HALF),
        Pair("green", "blue", ["now blue"], {"key": "331923-2"} | LEFT_HALF),
    ]


@shape("imagenhub_text_guided")
def _(root: Path) -> list[Pair]:
    texts = {
        "instruction": "make it blue",
        "source_global_caption": "a",
        "target_global_caption": "b",
        "target_local_caption": "c",
    }
    row = {"img_id": "1", "turn_index": 1, "source_img": "red", "mask_img": cut_out(), "target_img": "blue", **texts}
    parquet(
        root / "Text_Guided_Image_Editing/data/filtered-00000-of-00001.parquet", [row], ("source_img", "mask_img", "target_img")
    )
    return [Pair("red", "blue", ["make it blue"], {"source_caption": "a", "target_caption": "b"} | LEFT_HALF)]


@shape("ultraedit")
def _(root: Path) -> list[Pair]:
    sims = {f"clip_sim_{n}": 0.5 for n in ("source", "target", "dir", "image")} | {"dinov2_sim": 0.75, "ssim": 0.25}
    captions = {"source_caption": "a", "target_caption": "b"}
    row = {"idx": 1, "source_image": "red", "edited_image": "blue", "edit_prompt": "make it blue", **captions, **sims}
    images = ("source_image", "edited_image")
    parquet(root / "UltraEdit_500k/data/FreeForm_0-00000-of-00100.parquet", [row], images)
    parquet(root / "UltraEdit_500k/data/FreeForm_1-00000-of-00100.parquet", [row], images)
    return [Pair("red", "blue", ["make it blue"], {"scores": sims} | captions)] * 2


@shape("ultraedit_region")
def _(root: Path) -> list[Pair]:
    captions = {"source_caption": "a", "target_caption": "b"}
    row = {"source_image": "red", "edited_image": "blue", "mask_image": half_white(), "edit_prompt": "make it blue", **captions}
    images = ("source_image", "edited_image", "mask_image")
    parquet(root / "UltraEdit_Region_100k/data/train-00000-of-00030.parquet", [row], images)
    return [Pair("red", "blue", ["make it blue"], captions | LEFT_HALF)]


@shape("omniedit")
def _(root: Path) -> list[Pair]:
    scores = {"sc_score_1": 9.0, "sc_score_2": 8.0, "pq_score": 7.0, "o_score": 7.7}
    row = {
        "omni_edit_id": "task_obj_add_1", "task": "addition", "src_img": "red", "edited_img": "blue", "width": 32, "height": 32,
        "edited_prompt_list": ["Add a blue sky behind the house.", "add sky"], "sc_reasoning": "good", "pq_reasoning": "fine",
        **scores,
    }  # fmt: skip
    for name in ("train-00000-of-01450", "dev-00000-of-00001"):
        parquet(root / f"OmniEdit-Filtered-1.2M/data/{name}.parquet", [row], ("src_img", "edited_img"))
    more = {"category": "addition", "key": "task_obj_add_1", "scores": scores}
    return [Pair("red", "blue", ["Add a blue sky behind the house.", "add sky"], more)]


@shape("hq_edit")
def _(root: Path) -> list[Pair]:
    texts = {"edit": "make it blue", "inverse_edit": "make it red", "input": "a red", "output": "a blue"}
    row = {"input_image": "red", "output_image": "blue", **texts}
    parquet(root / "HQ-Edit/data/train-00000-of-00190.parquet", [row], ("input_image", "output_image"))
    return [
        Pair("red", "blue", ["make it blue"], {"key": "000000", "source_caption": "a red", "target_caption": "a blue"}),
        Pair("blue", "red", ["make it red"], {"key": "000000-inverse", "source_caption": "a blue", "target_caption": "a red"}),
    ]


@shape("seed_data_edit_part1", "seed_data_edit_part1_unsplash")
def _(root: Path) -> list[Pair]:
    for name, site in (("Openimages", "openimages"), ("Unsplash", "unsplash")):
        folder = root / f"SEED-Data-Edit-Part1-{name}/auto_editing/{site}"
        png(folder / "images/source_images/0001/1.jpg", "red")
        png(folder / "images/target_images/0001/1.jpg", "blue")
        row = {"source_image": "source_images/0001/1.jpg", "target_image": "target_images/0001/1.jpg"}
        jsonl(folder / "annotations/split_0001.jsonl", {**row, "instruction": "make it blue"})
        jsonl(folder / "annotations_GPT4V/split_0001.jsonl", {**row, "instruction": "Turn the red house blue."})
    return [Pair("red", "blue", ["make it blue"])]


@shape("seed_data_edit_part2")
def _(root: Path) -> list[Pair]:
    folder = root / "SEED-Data-Edit-Part2-3/real_editing"
    png(folder / "images/1.png", "red")
    png(folder / "images/1_e.png", "blue")
    jsonl(
        folder / "annotations/split_0001.jsonl",
        {"source_image": "1.png", "target_image": "1_e.png", "instruction": "make it blue"},
        {"source_image": "1.png", "edit_image_1": "1_e.png", "instruction_1": "blue, please"},
    )
    return [Pair("red", "blue", ["make it blue"]), Pair("red", "blue", ["blue, please"])]


@shape("seed_data_edit_part3")
def _(root: Path) -> list[Pair]:
    folder = root / "SEED-Data-Edit-Part2-3/multi_turn_editing"
    for number, colour in enumerate(("red", "green", "blue")):
        png(folder / f"images/s/{number}.png", colour)
    edits = {"instruction_1": "green", "edit_image_1": "s/1.png", "instruction_2": "blue", "edit_image_2": "s/2.png"}
    jsonl(folder / "annotations/split_0001.jsonl", {"source_image": "s/0.png", **edits})
    return [
        Pair("red", "green", ["green"], {"key": "000000-turn1"}),
        Pair("green", "blue", ["blue"], {"key": "000000-turn2"}),
    ]


@shape("imgedit")
def _(root: Path) -> list[Pair]:
    single, several = "results_remove_laion_part5/00094_1", "results_version_backtracking_part0/00031_1"
    turns = [
        {"input_images": [f"{several}/origin_{n}.png"], "output_images": [f"{several}/result_{n}.png"], "prompt": said}
        for n, said in enumerate(("add a vest", "make it brown"))
    ]
    images = [f"{single}/original.png", f"{single}/object.png"]
    rows = [{"input_images": images, "output_images": [f"{single}/result.png"], "prompt": "Remove the people"}]
    parquet(root / "ImgEdit/Parquet/remove_part5.parquet", rows, ())
    parquet(root / "ImgEdit/Parquet/version_backtracking_part0.parquet", [{"data": turns}], ())
    members = {
        f"{single}/{n}.png": encoded(picture(c)) for n, c in (("original", "red"), ("object", "lime"), ("result", "blue"))
    }
    tar(root / "ImgEdit/Singleturn/remove_part5.tar", members, parts=3)
    colours = (("origin_0", "red"), ("result_0", "green"), ("origin_1", "green"), ("result_1", "brown"))
    tar(root / "ImgEdit/Multiturn/results_version_backtracking_part0.tar",
        {f"{several}/{n}.png": encoded(picture(c)) for n, c in colours}, parts=2)  # fmt: skip
    return [Pair("red", "blue", ["Remove the people"], {"references": ["lime"]})]


@shape("imgedit_multiturn")
def _(root: Path) -> list[Pair]:
    SHAPES["imgedit"](root)
    return [
        Pair("red", "green", ["add a vest"], {"key": "000000-turn1"}),
        Pair("green", "brown", ["make it brown"], {"key": "000000-turn2"}),
    ]


@shape("pico_banana", "pico_banana_preference")
def _(root: Path) -> list[Pair]:
    folder = root / "pico-banana-400k"
    png(folder / "openimages/images/train_0/a.jpg", "red")
    png(folder / "images/positive-edit/1.png", "blue")
    row = {
        "open_image_input_url": "https://farm8.staticflickr.com/1_o.jpg", "text": "Make the house blue, all of it.",
        "output_image": "images/positive-edit/1.png", "edit_type": "Change an object's attribute",
        "summarized_text": "Make it blue",
        "local_input_image": "openimages/images/train_0/a.jpg",
    }  # fmt: skip
    jsonl(folder / "sft_with_local_source_image_path.jsonl", row)
    rejected = {"rejected_images": ["images/negative-edit/1.png", "images/negative-edit/2.png"]}
    jsonl(folder / "preference_with_local_source_image_path.jsonl", row | rejected)
    more = {"category": "Change an object's attribute"}
    return [Pair("red", "blue", ["Make it blue", "Make the house blue, all of it."], more)]


@shape("pico_banana_multiturn")
def _(root: Path) -> list[Pair]:
    folder = root / "pico-banana-400k"
    files = [{"id": "original_input_image", "url": "https://farm8.staticflickr.com/1_o.jpg"}]
    for number, colour in enumerate(("green", "blue"), 1):
        png(folder / f"images/multi-turn/1_{number}.png", colour)
        files.append({"id": f"edit_turn_{number}", "url": f"images/multi-turn/1_{number}.png"})
    png(folder / "openimages/a.jpg", "red")
    row = {"files": files, "metadata_edit_turn_prompts": ["green", "blue"], "local_input_image": "openimages/a.jpg"}
    jsonl(folder / "multi_turn_with_local_source_image_path.jsonl", row)
    return [Pair("red", "green", ["green"]), Pair("green", "blue", ["blue"])]


@shape("anyedit")
def _(root: Path) -> list[Pair]:
    texts = {
        "edit_instruction": "make it blue",
        "edit_type": "color_alter",
        "edited object": "house",
        "input": "a",
        "output": "b",
    }
    rows = [
        {"image_file": "red", "edited_file": "blue", "visual_input": None, **texts},
        {"image_file": "red", "edited_file": "blue", "visual_input": "lime", **texts},
    ]
    parquet(root / "AnyEdit/data/train-00000-of-00999.parquet", rows, ("image_file", "edited_file", "visual_input"))
    more = {"category": "color_alter", "source_caption": "a", "target_caption": "b"}
    return [Pair("red", "blue", ["make it blue"], more | {"references": r}) for r in ([], ["lime"])]


@shape("nhr_edit")
def _(root: Path) -> list[Pair]:
    folder = root / "NHR-Edit/train"
    names = {"source_file_name": "images/00/image_001_original.jpg", "edited_file_name": "images/00/image_001_edited_1.jpg"}
    png(folder / names["source_file_name"], "red")
    png(folder / names["edited_file_name"], "blue")
    size = {"img_width": 32, "img_height": 32}
    texts = {"edit_instruction": "make it blue", "augmented_instructions": ["turn it blue", "blue, please"]}
    kinds = {"category": "color", "style": "photo", "kind": "local"}
    jsonl(folder / "metadata.jsonl", {"sample_id": "s1", **names, **texts, **size, **kinds})
    return [Pair("red", "blue", ["make it blue", "turn it blue", "blue, please"], {"category": "color", "key": "s1"})]


@shape("gpt_image_edit")
def _(root: Path) -> list[Pair]:
    folder = root / "GPT-Image-Edit-1.5M"
    png(folder / "hqedit/edit/1_in.png", "red")
    png(folder / "hqedit/edit/1_out.png", "blue")
    talk = [{"from": "human", "value": "<image>\nmake it blue"}, {"from": "gpt", "value": "<image>"}]
    rows = [{"image": ["hqedit/edit/1_in.png", "hqedit/edit/1_out.png"], "conversations": talk}]
    text(folder / "hqedit_edit.json", json.dumps(rows))
    return [Pair("red", "blue", ["make it blue"])]


@shape("sharegpt_4o_image")
def _(root: Path) -> list[Pair]:
    folder = root / "ShareGPT-4o-Image"
    rows = [
        {"input_prompt": "make it blue", "input_image": ["image/v2v_1.png"], "output_image": "image/v2v_2.png"},
        {
            "input_prompt": "use its hat",
            "input_image": ["image/v2v_1.png", "image/v2v_3.png"],
            "output_image": "image/v2v_4.png",
        },
    ]
    text(folder / "text_and_image_to_image.json", json.dumps(rows))
    colours = {"v2v_1": "red", "v2v_2": "blue", "v2v_3": "lime", "v2v_4": "black"}
    members = {f"image/{name}.png": encoded(picture(c)) for name, c in colours.items()}
    for number in range(2):
        half = dict(list(members.items())[2 * number : 2 * number + 2])
        tar(folder / f"text_and_image_to_image_part_{number}.tar", half)
    return [
        Pair("red", "blue", ["make it blue"], {"references": []}),
        Pair("red", "black", ["use its hat"], {"references": ["lime"]}),
    ]


@shape("humanedit")
def _(root: Path) -> list[Pair]:
    texts = {"EDITING_INSTRUCTION": "make it blue", "EDITING_TYPE": "Replace", "OUTPUT_DESCRIPTION": "a blue house"}
    rest = {
        "IMAGE_ID": "1",
        "CORE": "HumanEdit-core",
        "MASK": "mask",
        "INPUT_CAPTION_BY_LLAMA": "a",
        "OUTPUT_CAPTION_BY_LLAMA": "b",
    }
    row = {"INPUT_IMG": "red", "OUTPUT_IMG": "blue", "MASK_IMG": half_white(), **texts, **rest}
    parquet(root / "HumanEdit/data/train-00000-of-00033.parquet", [row], ("INPUT_IMG", "MASK_IMG", "OUTPUT_IMG"))
    return [Pair("red", "blue", ["make it blue"], {"category": "Replace", "target_caption": "a blue house"} | LEFT_HALF)]


@shape("inter_edit")
def _(root: Path) -> list[Pair]:
    folder = root / "Inter-Edit-Train"
    names = {"source_archive": "sources/source_00000.tar", "source_file": "sources/source_0000003.png"}
    names |= {"asset_archive": "assets/asset_00000.tar", "target_file": "targets/target_0000007.png"}
    rest = {"bounding_box": [1, 2, 3, 4], "bbox_reference_dimensions": {"width": 960, "height": 960}, "better_data": True}
    row = {
        "sample_id": 7,
        "source_id": 3,
        "edit_type": "Local",
        "instruction": "变成蓝色",
        "mask_file": "masks/mask_0000007.png",
    }
    (folder / "metadata").mkdir(parents=True)
    with gzip.open(folder / "metadata/train_00000.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({**row, **names, **rest}, ensure_ascii=False) + "\n")
    tar(folder / names["source_archive"], {names["source_file"]: encoded(picture("red"))})
    tar(folder / names["asset_archive"],
        {names["target_file"]: encoded(picture("blue")), row["mask_file"]: half_white()["bytes"]})  # fmt: skip
    return [Pair("red", "blue", ["变成蓝色"], {"category": "Local", "key": "7"} | LEFT_HALF)]


@shape("x2i2")
def _(root: Path) -> list[Pair]:
    folder = root / "X2I2"
    for name, colour in (("a", "red"), ("b", "lime"), ("c", "blue")):
        png(folder / f"images/{name}.png", colour)
    row = {"task_type": "edit", "instruction": "use its hat", "input_images": ["images/a.png", "images/b.png"]}
    jsonl(folder / "jsons/edit.jsonl", {**row, "output_image": "images/c.png"})
    return [Pair("red", "blue", ["use its hat"], {"category": "edit", "references": ["lime"]})]


@shape("unicedit_10m")
def _(root: Path) -> list[Pair]:
    rows = [{"source_image": "red", "instruction": "make it blue", "edited_image": "blue"}]
    parquet(root / "UnicEdit-10M/data/train-00000-of-00001.parquet", rows, ("source_image", "edited_image"))
    return [Pair("red", "blue", ["make it blue"])]


@shape("kontext_relighting")
def _(root: Path) -> list[Pair]:
    rows = [{"file_name": "red", "instruction": "light it from the left", "output": "blue"}]
    parquet(root / "relighting/data/train-00000-of-00001.parquet", rows, ("file_name", "output"))
    return [Pair("red", "blue", ["light it from the left"])]
