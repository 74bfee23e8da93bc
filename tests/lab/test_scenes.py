"""The scenes world: what is drawn is what is said, and what is held out is never shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.data.doctor.exam import examine
from editkit.errors import UserError
from editkit.lab.scene_art import COLOURS, CREDITS, GLYPHS, draw, svg
from editkit.lab.scene_builder import SceneBuilder
from editkit.lab.scene_edits import captioned_image, edit_pair, in_words, sample_edit, sample_scenes
from editkit.lab.scene_prompts import TAGS, prompts, sample_prompt, unseen_in
from editkit.lab.scene_words import EDITS, FRAMES, RELATIONS, caption, noun
from editkit.lab.scenes import (
    MAX_COUNT,
    OPPOSITE,
    Scene,
    Thing,
    apart,
    is_held_out,
    object_masks,
    related,
    relation,
    render,
)

seeds = st.integers(0, 2**31)


@pytest.mark.parametrize("kind", GLYPHS)
def test_every_object_fills_its_box_in_every_colour_and_no_two_colours_look_alike(kind: str) -> None:
    drawn = {}
    for colour in COLOURS:
        pixels_HWC = np.asarray(draw(kind, colour, 64, 60))
        assert pixels_HWC.shape == (60, 64, 4)
        shown_HW = pixels_HWC[:, :, 3] > 0
        assert shown_HW[0].any()
        assert shown_HW[-1].any()
        assert shown_HW[:, 0].any()
        assert shown_HW[:, -1].any()
        paint = np.array([int(COLOURS[colour][i : i + 2], 16) for i in (1, 3, 5)])
        body = (np.abs(pixels_HWC[:, :, :3].astype(int) - paint).max(2) < 8) & (pixels_HWC[:, :, 3] == 255)
        assert body.sum() > 0.2 * shown_HW.sum(), f"{colour} {kind}: its body is not {colour}"
        drawn[colour] = pixels_HWC
    for a, b in combinations(COLOURS, 2):
        assert not np.array_equal(drawn[a], drawn[b])


def test_every_fill_that_is_to_be_coloured_is_in_the_art() -> None:
    for kind, glyph in GLYPHS.items():
        text = svg(glyph, "red").lower()
        for fill in (*glyph.body, *glyph.shade):
            assert fill not in text, f"{kind}: {fill} was not replaced"
        if glyph.shade:
            assert "#ad1e23" in text, f"{kind}: nothing is shaded"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("tag", TAGS)
def test_scenes_show_what_is_asked_and_lie_in_their_split(split: str, tag: str) -> None:
    rng = Random(tag)
    for _ in range(25):
        scene, asked = sample_prompt(rng, split, tag)
        assert scene.split == split
        assert asked["tag"] == tag
        numbers = Counter(t.kind for t in scene.things)
        for entry in asked["include"]:
            assert numbers[entry["class"]] == entry["count"]
            if "color" in entry:
                assert all(t.colour == entry["color"] for t in scene.things if t.kind == entry["class"])
            if "position" in entry:
                name, other = entry["position"]
                one, another = (next(t for t in scene.things if t.kind == e["class"]) for e in (entry, asked["include"][other]))
                assert relation(one, another) == name
        assert all(apart(a, b) for a, b in combinations(scene.things, 2))


def test_the_prompts_are_in_genevals_words() -> None:
    told = {asked["tag"]: asked for _, asked in prompts(0, "train", 1)}
    assert set(told) == set(TAGS)
    assert told["single_object"]["prompt"] == f"a photo of {noun(told['single_object']['include'][0]['class'])}"
    target, subject = told["position"]["include"]
    expected = f"a photo of {noun(subject['class'])} {subject['position'][0]} {noun(target['class'])}"
    assert told["position"]["prompt"] == expected
    (entry,), (limit,) = told["counting"]["include"], told["counting"]["exclude"]
    assert limit == {"class": entry["class"], "count": entry["count"] + 1}
    assert len(told["multi"]["include"]) >= 3
    assert sum("position" in e for e in told["multi"]["include"]) >= 2


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("apple",), "an apple"),
        (("apple", 1, "red"), "a red apple"),
        (("car", 1, "orange"), "an orange car"),
        (("cross", 3), "three crosses"),
        (("fish", 2, "blue"), "two blue fishes"),
    ],
)
def test_noun_phrases(arguments: tuple[str, int, str], phrase: str) -> None:
    assert noun(*arguments) == phrase


def test_a_quarter_of_the_compositions_of_each_kind_is_held_out_and_every_word_is_seen() -> None:
    colours = [(k, c) for k in GLYPHS for c in COLOURS]
    counts = [(k, str(n)) for k in GLYPHS for n in range(2, MAX_COUNT + 1)]
    pairs = list(combinations(sorted(GLYPHS), 2))
    relations = [("relation", a, name, b) for a in GLYPHS for b in GLYPHS if a != b for name in ("left of", "above")]
    for kind, every in (("colour", colours), ("count", counts), ("pair", pairs)):
        share = np.mean([is_held_out(kind, *c) for c in every])
        assert 0.15 < share < 0.35, (kind, share)
    assert 0.2 < np.mean([is_held_out(*r) for r in relations]) < 0.3
    for kind in GLYPHS:
        assert sum(not is_held_out("colour", kind, c) for c in COLOURS) >= 4, kind
        assert sum(not is_held_out("pair", *sorted((kind, k))) for k in GLYPHS if k != kind) >= 8, kind
    for colour in COLOURS:
        assert sum(not is_held_out("colour", k, colour) for k in GLYPHS) >= 12, colour
    for number in range(2, MAX_COUNT + 1):
        assert sum(not is_held_out("count", k, str(number)) for k in GLYPHS) >= 12, number


@settings(max_examples=60)
@given(seeds, st.sampled_from(TAGS))
def test_training_shows_no_held_out_composition_asked_for_or_not(seed: int, tag: str) -> None:
    scene, _ = sample_prompt(Random(seed), "train", tag)
    kinds = Counter(t.kind for t in scene.things)
    assert not any(is_held_out("colour", t.kind, t.colour) for t in scene.things)
    assert not any(is_held_out("count", k, str(n)) for k, n in kinds.items() if n > 1)
    assert not any(is_held_out("pair", *sorted(p)) for p in combinations(kinds, 2))
    for i, name, j in scene.relations:
        assert not is_held_out(*related(scene.things[i].kind, name, scene.things[j].kind))


def test_a_scene_with_a_held_out_composition_is_never_a_training_one() -> None:
    held_out = [(k, c) for k in GLYPHS for c in COLOURS if is_held_out("colour", k, c)]
    assert {Scene((Thing(k, c, 1, 1, 12),), 0).split for k, c in held_out} == {"test"}
    seen = [(k, c) for k in GLYPHS for c in COLOURS if not is_held_out("colour", k, c)]
    assert {Scene((Thing(k, c, 1, 1, 12),), 0).split for k, c in seen} == {"train", "test"}  # by the graph


def test_a_composition_is_held_out_however_it_is_said() -> None:
    assert related("cat", "right of", "bell") == related("bell", "left of", "cat")
    assert related("cat", "below", "bell") == related("bell", "above", "cat")
    assert related("cat", "left of", "bell") != related("bell", "left of", "cat")


def test_half_of_the_test_prompts_ask_for_something_unseen() -> None:
    rng = Random(4)
    for tag in TAGS:
        shares = [bool(unseen_in(sample_prompt(rng, "test", tag)[1])) for _ in range(40)]
        assert np.mean(shares) == 0 if tag == "single_object" else 0.2 < np.mean(shares) < 0.8, tag


def test_train_and_test_share_no_scene_graph() -> None:
    def graphs(split: str) -> set[tuple[tuple[str, str, str], ...]]:
        found = set()
        for example in sample_scenes(400, seed=0, split=split, size=32):
            objects = json.loads(example.facts["graph"])["objects"]
            found.add(tuple(sorted((o["class"], o["color"], o["place"]) for o in objects)))
        return found

    assert not graphs("train") & graphs("test")


@settings(max_examples=60)
@given(seeds)
def test_relations_are_opposite_from_the_other_side(seed: int) -> None:
    scene, _ = sample_prompt(Random(seed), "train", "multi")
    for i, name, j in scene.relations:
        assert relation(scene.things[j], scene.things[i]) == OPPOSITE[name]


@settings(max_examples=25)
@given(seeds, st.sampled_from((32, 64)))
def test_the_masks_and_boxes_are_where_the_objects_were_drawn(seed: int, size: int) -> None:
    scene, _ = sample_prompt(Random(seed), "train", "multi")
    full, empty = (np.asarray(render(s, size)) for s in (scene, Scene((), scene.ground)))
    masks = object_masks(scene, size)
    touched_HW = np.any(masks, axis=0)
    assert not (touched_HW & (np.sum(masks, axis=0) > 1)).any(), "two objects overlap"
    assert not ((full != empty).any(2) & ~touched_HW).any(), "drawn outside of all masks"
    for mask_HW, entry in zip(masks, scene.graph(size)["objects"], strict=True):
        rows, columns = np.nonzero(mask_HW.any(1))[0], np.nonzero(mask_HW.any(0))[0]
        assert entry["box"] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_the_place_of_an_object_is_where_its_centre_is() -> None:
    assert Thing("circle", "red", 1, 1, 9).place == "top left"
    assert Thing("circle", "red", 11, 11, 10).place == "centre"
    assert Thing("circle", "red", 22, 11, 9).place == "right"
    assert Thing("circle", "red", 11, 22, 9).place == "bottom"


def test_phrasings_for_training_and_for_evaluation() -> None:
    for training, held_out in (FRAMES, *EDITS.values()):
        assert len(set(training)) == len(training) >= 8
        assert len(set(held_out)) >= 3
        assert not set(training) & set(held_out)
    for name, words in RELATIONS[0].items():
        assert len(words) >= 3
        assert not set(words) & set(RELATIONS[1][name])


@settings(max_examples=80)
@given(seeds, st.sampled_from(list(EDITS)), st.sampled_from(("train", "test")))
def test_an_edit_changes_one_thing_as_it_says(seed: int, category: str, split: str) -> None:
    rng = Random(seed)
    edit = sample_edit(rng, split, category)
    assert edit.source.split == edit.target.split == split
    if split == "train":
        assert not edit.source.unseen
        assert not edit.target.unseen
    assert edit.source.ground == edit.target.ground
    before, after = set(edit.source.things), set(edit.target.things)
    gone, come = before - after, after - before
    changes = {"add": (0, 1), "remove": (1, 0), "recolour": (1, 1), "move": (1, 1), "swap": (2, 2)}
    if category == "recount":
        assert len({t.kind for t in before | after}) == 1
        assert len(gone) + len(come) == 1
    else:
        assert (len(gone), len(come)) == changes[category]
    if category in ("move", "swap"):
        assert sorted((t.kind, t.colour, t.side) for t in gone) == sorted((t.kind, t.colour, t.side) for t in come)
    if category == "recolour":
        assert [(t.kind, t.x, t.y, t.side) for t in gone] == [(t.kind, t.x, t.y, t.side) for t in come]
    assert all(apart(a, b) for a, b in combinations(edit.target.things, 2))
    text = in_words(rng, edit, split == "test")
    assert text
    assert "{" not in text
    assert "  " not in text
    if category not in ("recount", "swap"):
        (named,) = {t.kind for t in gone | come}
        assert named in text


def test_the_doctor_takes_no_moved_object_for_a_moved_or_turned_picture() -> None:
    pairs = [edit_pair(1, "train", i, 64) for i in range(60)]
    found = {f.kind for i, pair in enumerate(pairs) for f in examine(pair, i).findings}
    assert not found & {"shift", "orientation", "rotation", "zoom"}


@settings(max_examples=25)
@given(seeds)
def test_an_instruction_speaks_of_one_object_only(seed: int) -> None:
    edit = sample_edit(Random(seed), "train", "move")
    assert len({t.kind for t in edit.source.things}) == len(edit.source.things)


@settings(max_examples=25)
@given(seeds)
def test_the_mask_of_an_edit_is_exactly_where_the_pictures_differ(seed: int) -> None:
    pair = edit_pair(seed, "train", 0, 32)
    source, target = np.asarray(pair.source.open()), np.asarray(pair.target.open())
    mask_HW = np.asarray(pair.mask.open().convert("L")) > 0
    assert np.array_equal(mask_HW, (source != target).any(axis=2))
    assert mask_HW.any()


def test_the_licence_is_openmojis_as_soon_as_one_glyph_is_there() -> None:
    assert Scene((Thing("circle", "red", 1, 1, 9), Thing("cat", "red", 20, 20, 9)), 0).licence == "CC BY-SA 4.0"
    assert Scene((Thing("circle", "red", 1, 1, 9),), 0).licence == "CC0 1.0"
    assert {g.licence for g in GLYPHS.values()} == set(CREDITS)
    added = [edit_pair(0, "train", i, 32) for i in range(40)]
    for pair in added:
        kinds = {o["class"] for f in (pair.source_facts, pair.target_facts) for o in json.loads(f["graph"])["objects"]}
        assert (pair.licence == "CC BY-SA 4.0") == any(GLYPHS[k].code for k in kinds)


def test_equal_numbers_give_equal_bytes_in_another_process_and_other_seeds_others() -> None:
    code = (
        "import hashlib; from editkit.lab.scene_edits import captioned_image, edit_pair;"
        "c, p = captioned_image(1, 'test', 3, 64), edit_pair(1, 'train', 3, 32);"
        "print(hashlib.sha256(repr((c.image.read_bytes(), c.captions, c.facts,"
        " p.source.read_bytes(), p.target.read_bytes(), p.instructions)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert captioned_image(1, "test", 3, 64).image.read_bytes() != captioned_image(2, "test", 3, 64).image.read_bytes()


def test_one_scene_is_the_same_at_both_sizes() -> None:
    small, large = (captioned_image(5, "train", 8, size) for size in (32, 64))
    assert small.captions == large.captions
    graphs = [json.loads(e.facts["graph"]) for e in (small, large)]
    assert graphs[0]["relations"] == graphs[1]["relations"]
    assert [o["class"] for o in graphs[0]["objects"]] == [o["class"] for o in graphs[1]["objects"]]


def test_captions_of_the_two_splits_never_read_the_same() -> None:
    said = {s: {c for e in sample_scenes(150, seed=2, split=s, size=32) for c in e.captions} for s in ("train", "test")}
    assert len(said["train"]) > 500
    assert not said["train"] & said["test"]


def test_every_caption_names_the_objects_it_asks_for() -> None:
    rng = Random(3)
    for tag in TAGS:
        _, asked = sample_prompt(rng, "train", tag)
        text = caption(rng, asked, held_out=True)
        for entry in asked["include"]:
            assert entry["class"] in text
            assert entry.get("color", "") in text


@pytest.mark.parametrize("size", [0, 48])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        render(Scene((), 0), size)


def test_a_set_has_the_categories_that_it_asks_for() -> None:
    made = SceneBuilder("captioned_images", SceneBuilder.Options(train=40, test=40, tags=["single_object", "colors"]))
    for split in ("train", "test"):
        assert {made.make(split, i).facts["tag"] for i in range(40)} == {"single_object", "colors"}
    everything = SceneBuilder("captioned_images", SceneBuilder.Options(train=1, test=1))
    assert everything.make("test", 3) == captioned_image(0, "test", 3, 64)
    with pytest.raises(UserError, match=r"tags: found \['colors'\] with edit_pairs"):
        SceneBuilder("edit_pairs", SceneBuilder.Options(train=1, test=1, tags=["colors"]))
