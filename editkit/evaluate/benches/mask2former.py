"""A detector for real pictures: Mask2Former for objects and CLIP for colours, both of transformers, loaded when first used.

GenEval's figures come from mmdet's `mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco` and OpenAI's CLIP ViT-L/14. What
transformers loads are other files of the same family: figures made with them are named with them, and do not stand beside the
official ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.benches.geneval_rules import COLOURS, Detection
from editkit.models.clip.load import ClipEncoder, load_clip
from editkit.models.locate import locate_model
from editkit.models.quiet import quiet_files

OBJECTS = "facebook/mask2former-swin-small-coco-instance"
COLOUR_CLIP = "openai/clip-vit-large-patch14"
RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}  # COCO's word -> GenEval's
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
GROUND = (0x99, 0x99, 0x99)  # painted over what is not the object
MAX_OBJECTS = 100  # of all classes together, as Mask2Former's own evaluation


class Mask2FormerDetector:
    """Objects by Mask2Former, colours by CLIP; `editkit.evaluate.benches.geneval.Detector`."""

    def __init__(self, objects: str = OBJECTS, clip: str = COLOUR_CLIP, device: str = "cpu") -> None:
        """Notes what to load.

        Args:
            objects, clip: a local folder in the stock layout, or a Hub id.
            device: where Mask2Former computes; CLIP sees single crops and stays on the CPU.
        """
        self._objects, self._clip_name, self._device = objects, clip, device
        self._colour_vectors: dict[str, torch.Tensor] = {}

    @property
    def name(self) -> str:
        return f"transformers' {self._objects} with {self._clip_name}"

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(self._words)

    def detect(self, image: Image.Image) -> list[Detection]:
        processor, model = self._model
        pixels_BCHW = processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        with torch.no_grad():
            found = model(pixel_values=pixels_BCHW)
        masks_QHW = F.interpolate(
            found.masks_queries_logits.float(), size=(image.height, image.width), mode="bilinear", align_corners=False
        )[0]
        return instances(found.class_queries_logits[0].float(), masks_QHW, self._words)

    def colours(self, image: Image.Image, detections: Sequence[Detection]) -> list[str]:
        if not detections:
            return []
        crops = [crop_object(image, detection) for detection in detections]
        vectors_ND = self._clip.images(crops)
        near = [(v_D @ self._of_class(d.name).T).argmax().item() for v_D, d in zip(vectors_ND, detections, strict=True)]
        return [COLOURS[int(i)] for i in near]

    def _of_class(self, name: str) -> torch.Tensor:
        """The ten colours of a class as unit vectors, shape (10, width): means over templates, as in CLIP's zero-shot."""
        if name not in self._colour_vectors:
            rows = [self._clip.texts([t.format(colour=c, name=name) for t in TEMPLATES]).mean(0) for c in COLOURS]
            self._colour_vectors[name] = F.normalize(torch.stack(rows), dim=-1)
        return self._colour_vectors[name]

    @cached_property
    def _words(self) -> list[str]:
        labels = self._model[1].config.id2label
        return [RENAMED.get(labels[i], labels[i]) for i in range(len(labels))]

    @cached_property
    def _clip(self) -> ClipEncoder:
        return load_clip(locate_model(self._clip_name))

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        folder = locate_model(self._objects)
        try:
            with quiet_files():
                model = Mask2FormerForUniversalSegmentation.from_pretrained(folder, dtype=torch.float32)
                return AutoImageProcessor.from_pretrained(folder), model.eval().to(self._device)
        except ImportError as error:  # its loss matches with scipy, and is made with it
            raise UserError(f'{folder}: found no scipy, which Mask2Former needs; pip install "editkit[geneval]"') from error
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be loaded as a Mask2Former: {str(error).splitlines()[0]}") from error


def instances(class_logits_QC: torch.Tensor, masks_QHW: torch.Tensor, words: Sequence[str]) -> list[Detection]:
    """Objects of Mask2Former's queries (Cheng et al., 2022, arXiv:2112.01527, instance inference).

    Args:
        class_logits_QC: one row a query; the last of the C columns is "no object".
        masks_QHW: logits of the pixels at the size of the picture.
        words: the classes, C - 1 of them.

    Returns:
        The surest pairs of query and class; confidence = probability of the class x mean probability of the pixels of the mask.
    """
    probability_QC = class_logits_QC.softmax(-1)[:, :-1]
    number = min(MAX_OBJECTS, probability_QC.numel())
    scores, places = probability_QC.flatten().topk(number)
    found = []
    for score, place in zip(scores.tolist(), places.tolist(), strict=True):
        query, word = divmod(place, len(words))
        mask_HW = masks_QHW[query] > 0
        if not mask_HW.any():
            continue
        sure = masks_QHW[query].sigmoid()[mask_HW].mean().item()
        shown_HW = mask_HW.cpu().numpy()
        rows, columns = np.nonzero(shown_HW.any(1))[0], np.nonzero(shown_HW.any(0))[0]
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        found.append(Detection(words[word], box, score * sure, shown_HW))
    return found


def crop_object(image: Image.Image, detection: Detection) -> Image.Image:
    """The object's box, all that is not the object painted grey (#999), RGB."""
    pixels_HWC = np.asarray(image.convert("RGB")).copy()
    if detection.mask is not None:
        pixels_HWC[~detection.mask] = GROUND
    left, top, right, bottom = (round(v) for v in detection.box)
    return Image.fromarray(pixels_HWC[top : max(bottom, top + 1), left : max(right, left + 1)])
