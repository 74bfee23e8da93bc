"""Who looks: a name, or a file with its options."""

from __future__ import annotations

from pathlib import Path

import pytest

from editkit.errors import UserError
from editkit.evaluate.benches.judge_file import load_chat_judge, load_detector
from editkit.evaluate.benches.mask2former import COLOUR_CLIP, OBJECTS


def test_a_detector_is_named_with_the_files_that_it_uses(tmp_path: Path) -> None:
    assert load_detector("mask2former").name == f"transformers' {OBJECTS} with {COLOUR_CLIP}"
    path = tmp_path / "judge.toml"
    path.write_text('[mask2former]\nobjects = "some/objects"\n')
    assert load_detector(str(path)).name == f"transformers' some/objects with {COLOUR_CLIP}"
    path.write_text('[mask2former]\nobjects = "some/objects"\nclip = "some/clip"\n')
    assert load_detector(str(path)).name == "transformers' some/objects with some/clip"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[chat]\nurl = "ftp://x"\nmodel = "any"\n', "judge.toml:2"),
        ('[chat]\nurl = "http://x/v1"\nmodle = "any"\n', "modle"),
        ('[chat]\nmodel = "any"\n', "url"),
        ("", "expected one table"),
        ("format = 2\n", "this version knows up to 1"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "judge.toml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_chat_judge(str(tmp_path / "judge.toml"), "wise")
