"""`editkit publish`: a finished run to a repository on the Hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from editkit.errors import UserError
from editkit.publish.card import write_model_card
from editkit.runs import find_run

REPO = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
T = TypeVar("T")


def publish(run: str, repo: str, *, private: bool = False, dry_run: bool = False, endpoint: str | None = None) -> str:
    """Uploads a run's model or adapter with its card.

    Args:
        run: a run folder, its name, or "latest".
        repo: "user/name".
        private: make the repository private.
        dry_run: write the folder that would be uploaded, and upload nothing.
        endpoint: the Hub's address; None = `HF_ENDPOINT`, or the public one.

    Returns:
        The address of the commit, or the folder of a dry run.

    Raises:
        UserError: nothing to publish, a bad name, no token, no right, or no connection. The token is never part of a message.
    """
    folder = find_run(run)
    if not REPO.match(repo):
        raise UserError(f'--repo: found "{repo}"; expected USER/NAME in letters, digits, ".", "_" and "-"')
    what = _weights(folder)
    if dry_run:
        staging = folder / "publish"
        shutil.rmtree(staging, ignore_errors=True)
        stage(folder, what, repo, staging)
        return str(staging)
    token = get_token()
    if token is None:
        raise UserError('found no token for the Hub; run "hf auth login", or set HF_TOKEN')
    api = HfApi(endpoint=endpoint or constants.ENDPOINT, token=token)
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary) / "upload"
        stage(folder, what, repo, staging)
        _asked(repo, api.endpoint, lambda: api.create_repo(repo, private=private, exist_ok=True))
        commit = _asked(
            repo, api.endpoint,
            lambda: api.upload_folder(repo_id=repo, folder_path=staging, commit_message=f"editkit publish {folder.name}"),
        )  # fmt: skip
    return str(commit.commit_url)


def stage(folder: Path, what: Path, repo: str, staging: Path) -> None:
    """Puts everything that goes up into `staging`: weights with their metadata, recipe, samples, card."""
    shutil.copytree(what, staging)
    shutil.copy(folder / "recipe.toml", staging / "recipe.toml")
    write_model_card(folder, repo, staging)


def _weights(folder: Path) -> Path:
    for name in ("adapter", "model"):
        if (folder / name).is_dir():
            return folder / name
    raise UserError(
        f"{folder}: found neither model/ nor adapter/; the run has not come to its end, so there is nothing to publish"
    )


def _asked(repo: str, endpoint: str, action: Callable[[], T]) -> T:
    """Runs a request; whatever goes wrong becomes one line without any header or token."""
    try:
        return action()
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reasons = {
            401: "the token is not valid; log in again",
            403: f'the token may not write to "{repo}"; use one with write access',
            404: f'"{repo}" or its owner does not exist',
            409: f'"{repo}" is in use by something else',
        }
        raise UserError(f"{endpoint} refused ({status}): {reasons.get(status, 'try again later')}") from None
    except (httpx2.HTTPError, OSError) as error:
        raise UserError(f"{endpoint} cannot be reached ({type(error).__name__}); nothing was published") from None
