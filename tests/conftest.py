"""What every test shares: one thread, no network, quiet progress, trackers of its own, and a tiny model."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

os.environ.update(
    TRACKIO_DIR=tempfile.mkdtemp(prefix="editkit-trackio-"),  # read once, when it is imported
    WANDB_MODE="offline",
    WANDB_ERROR_REPORTING="false",
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    GRADIO_ANALYTICS_ENABLED="False",
    EDITKIT_QUIET="1",
    TRANSFORMERS_VERBOSITY="error",
)

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine and what else it does, not about the code.
settings.register_profile("editkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("editkit")

ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    torch.set_num_threads(1)


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["TRACKIO_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.accelerator.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an accelerator; this machine has none"))


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random text-to-image Stable Diffusion in the stock layout."""
    from tests.tiny import save_tiny_stable_diffusion

    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("tiny_sd"))


@pytest.fixture(scope="session")
def tiny_editor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random 8-channel editor in the stock layout."""
    from tests.tiny import save_tiny_stable_diffusion

    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("tiny_editor"), in_channels=8, seed=1)


@pytest.fixture(scope="session")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of plan_refine whose network knows one trace, so that it writes what can be read."""
    from tests.planners import run_by_heart

    return run_by_heart(tmp_path_factory.mktemp("by_heart"))


@pytest.fixture(scope="session")
def tiny_bagel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BAGEL in our layout, for pictures of 32 px."""
    from tests.tiny import tiny_bagel_parts

    folder = tmp_path_factory.mktemp("tiny_bagel")
    tiny_bagel_parts().save(folder)
    return folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with its own cache, for what writes runs/ and data/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path
