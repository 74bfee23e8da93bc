"""A data set goes to a real server on loopback and comes back as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import snapshot_download

from editkit.build import build
from editkit.cli import main
from editkit.errors import UserError
from editkit.publish.hub import publish
from tests.publish.hub_server import Hub
from tests.tiny import avatars_spec

SPEC = avatars_spec(6, 3, 32)


@pytest.fixture
def spec(workplace: Path) -> str:
    (workplace / "small.toml").write_text(SPEC)
    return "small.toml"


def names_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_a_data_set_goes_up_and_comes_back_equal(spec: str, hub: Hub, tmp_path: Path) -> None:
    folder = build(spec)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert publish(str(folder), "tester/pairs") == f"{hub.address}/datasets/tester/pairs"
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert not list(folder.parent.glob(".publish-*"))
    back = Path(snapshot_download("tester/pairs", repo_type="dataset", endpoint=hub.address, cache_dir=tmp_path / "back"))
    for path, data in before.items():
        if path.name != "README.md":
            assert (back / path.relative_to(folder)).read_bytes() == data
    card = (back / "README.md").read_text()
    assert card.startswith((folder / "README.md").read_text().rstrip())
    for words in ("## Licences", "## Counts", "contact_sheet.png", 'load_dataset("tester/pairs", split="train")'):
        assert words in card
    loaded = datasets.load_dataset(str(back))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 6, "test": 3}


def test_a_spec_names_what_it_builds_and_publishing_again_replaces_it(spec: str, hub: Hub) -> None:
    with pytest.raises(UserError, match=r'run "editkit build small\.toml" first'):
        publish(spec, "tester/pairs")
    folder = build(spec, limit=4)
    (folder / "notes.txt").write_text("mine")
    publish(spec, "tester/pairs", private=True)
    assert "notes.txt" in hub.files("tester/pairs")
    (folder / "notes.txt").unlink()
    publish(spec, "tester/pairs", private=True)
    assert hub.private == {"tester/pairs": True}
    assert hub.files("tester/pairs").keys() == {".gitattributes", *names_in(folder)}


@pytest.mark.slow
def test_the_cards_lines_load_it_in_a_new_process(spec: str, hub: Hub, workplace: Path) -> None:
    publish(str(build(spec)), "tester/pairs")
    lines = (hub.repo("tester/pairs") / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    place = {"HF_HOME": str(workplace / "home"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", lines], env=os.environ | place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PngImageFile" in done.stdout


def test_a_shard_that_was_changed_is_not_published(spec: str, hub: Hub) -> None:
    folder = build(spec)
    shard = next((folder / "data").glob("test-*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=f"data/{shard.name} is missing or not as it was built"):
        publish(str(folder), "tester/pairs")
    shard.unlink()
    with pytest.raises(UserError, match="is missing or not as it was built"):
        publish(str(folder), "tester/pairs")
    assert hub.requests == []


def test_a_dry_run_shows_what_would_go_up(spec: str, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build(spec)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["publish", spec, "--repo", "tester/pairs", "--dry-run"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    staged = Path(said.splitlines()[-1])
    assert hub.requests == []
    assert names_in(staged) == names_in(folder)
    assert all(name in said for name in json.loads((staged / "dataset.json").read_text())["shards"])
