"""What a generator in the latents of lab:scene-vae can reach at most: `python -m tests.bench.scene_ceiling [--scenes 700]`.

Unseen scenes, drawn exactly, are scored as GenEval scores pictures: as they are, and after the autoencoder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from PIL import Image

from editkit.data.prepare import PrepareParams, prepare, prepared
from editkit.evaluate.benches.scene_bench import load_scene_judge, score_scenes
from editkit.lab.scene_edits import captioned_image
from editkit.models.autoencoders import reconstruct
from editkit.models.locate import LAB

SIDE = PrepareParams(32)
BATCH = 100


def decoded_scenes(count: int) -> tuple[list[dict], list[Image.Image], list[Image.Image]]:
    """The first unseen scenes of data_specs/scenes.toml: what was asked for, the pictures, and what is left of them."""
    examples = [captioned_image(0, "test", i, 64) for i in range(count)]
    vae = AutoencoderTiny.from_pretrained(LAB / "scene-vae" / "vae").eval()
    pixels = torch.cat([prepare([e.image.open()], SIDE) for e in examples])
    decoded = [picture for some in pixels.split(BATCH) for picture in reconstruct(vae, some)]
    asked = [{"prompt": e.captions[0], **json.loads(e.facts["geneval"])} for e in examples]
    return asked, [prepared(e.image.open(), SIDE) for e in examples], decoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=700)
    asked, scenes, decoded = decoded_scenes(parser.parse_args().scenes)
    reader = load_scene_judge("lab:judges/scene_reader")
    for name, pictures in (("drawn exactly", scenes), ("decoded", decoded)):
        with tempfile.TemporaryDirectory() as folder:
            scores, by_category = score_scenes(Path(folder), asked, pictures, reader)
        print(json.dumps({"pictures": name, **scores, "by_category": by_category}))


if __name__ == "__main__":
    main()
