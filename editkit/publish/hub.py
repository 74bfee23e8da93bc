"""`editkit publish`: a finished run, or a data set, to a repository on the Hub."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetInfo, HfApi, ModelInfo, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from editkit.errors import UserError
from editkit.models import METADATA
from editkit.publish.card import write_card
from editkit.publish.dataset import MANIFEST, find_dataset, stage_dataset
from editkit.publish.export import FinishedRun, read_run, stage_files

HUBS_OWN = ".gitattributes"  # in every repository that the Hub makes
REASONS = {
    401: 'the token is not valid; run "hf auth login" again, or set another HF_TOKEN',
    403: "the token may not write there; use one with write access, or a name under your own account",
    404: "the repository or its owner does not exist",
}


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What goes up.

    Attributes:
        folder: the run or the data set.
        what: it, as `stage` takes it.
        kind: of the repository.
        marker: the file by which a repository is known as one that editkit published.
        beside: where it is staged, on the file system of the folder: weights and shards may be larger than what fits into the
            system's folder for temporary files.
        dry_run: the folder that a dry run leaves.
    """

    folder: Path
    what: FinishedRun | Path
    kind: Literal["model", "dataset"]
    marker: str
    beside: Path
    dry_run: Path


def _parcel_of(what: str) -> _Parcel:
    dataset = find_dataset(what)
    if dataset is not None:
        beside = dataset.resolve().parent
        return _Parcel(dataset, dataset, "dataset", MANIFEST, beside, beside / f"{dataset.resolve().name}.publish")
    run = read_run(what)
    return _Parcel(run.folder, run, "model", METADATA, run.folder, run.folder / "publish")


def publish(what: str, repo: str, *, private: bool = False, dry_run: bool = False) -> str:
    """Uploads a run's model or adapter, or a data set, with its card, as one commit: all of it arrives, or nothing.

    The Hub is the one of `HF_ENDPOINT`, and the token that of `HF_TOKEN` or of `hf auth login`.

    Args:
        what: a run folder, its name, or "latest"; a data-set folder, or the spec that it was built from.
        repo: "user/name"; a repository that editkit published before is replaced, any other one is left alone.
        private: make the repository private.
        dry_run: write the folder that would be uploaded, say what is in it, and ask nobody.

    Returns:
        The address of the repository, or the folder of a dry run.

    Raises:
        UserError: nothing to publish, a bad name, no token, no right, or no connection. The token is never part of a message.
    """
    parcel = _parcel_of(what)
    _check_name(repo)
    if dry_run:
        staging = parcel.dry_run
        shutil.rmtree(staging, ignore_errors=True)
        for path in stage(parcel.what, repo, staging):
            print(f"{path.stat().st_size:>12,}  {path.relative_to(staging)}")
        return str(staging)
    token = _token()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/"), token=token)
    with tempfile.TemporaryDirectory(dir=parcel.beside, prefix=".publish-") as temporary:
        staging = Path(temporary) / "upload"
        files = stage(parcel.what, repo, staging)
        _refuse_secret(files, token)
        with _asking(api.endpoint, f'"{repo}" was not made'):
            url = api.create_repo(repo, private=private or None, exist_ok=True, repo_type=parcel.kind)
        with _asking(api.endpoint, f'nothing was written to "{repo}"'):
            found = api.dataset_info(repo) if parcel.kind == "dataset" else api.model_info(repo)
            there = _files_there(found, parcel.marker, repo, private)
            added = {str(path.relative_to(staging)): path for path in files}
            size = sum(path.stat().st_size for path in files)
            print(f"uploading {len(added)} files, {size / 1e6:.1f} MB, to {url}", file=sys.stderr)
            api.create_commit(
                repo,
                [CommitOperationDelete(name) for name in sorted(there - added.keys())]
                + [CommitOperationAdd(name, path) for name, path in added.items()],
                commit_message=f"editkit publish {parcel.folder.name}",
                repo_type=parcel.kind,
            )
    return str(url)


def stage(what: FinishedRun | Path, repo: str, staging: Path) -> list[Path]:
    """Puts everything that goes up into `staging` and returns the files.

    Args:
        what: a run, of which go weights with their metadata, recipe, samples and card; or a data-set folder, which goes whole.
        repo: "user/name".
        staging: a folder that is not there yet.
    """
    if isinstance(what, Path):
        stage_dataset(what, repo, staging)
    else:
        stage_files(what, staging)
        write_card(what, repo, staging)
    return sorted(path for path in staging.rglob("*") if path.is_file())


def _check_name(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f'--repo: found "{repo}"; expected USER/NAME: {str(error).splitlines()[0]}') from None
    if "/" not in repo:
        raise UserError(f'--repo: found "{repo}"; expected USER/NAME, such as me/{repo}')


def _token() -> str:
    token = get_token()
    if token is None:
        raise UserError('found no token for the Hub; run "hf auth login", or set HF_TOKEN')
    if not re.fullmatch(r"[!-~]+", token):  # the HTTP library would name the character, and with it a piece of the token
        raise UserError("the token for the Hub holds characters that no token has; copy it anew")
    return token


def _refuse_secret(files: list[Path], token: str) -> None:
    """A recipe may hold what was pasted into it; weights cannot."""
    for path in files:
        if path.suffix in (".json", ".md", ".toml", ".txt") and token in path.read_text(encoding="utf-8"):
            raise UserError(f"{path.name} holds your token for the Hub; take it out of the run, nothing was published")


def _files_there(info: ModelInfo | DatasetInfo, marker: str, repo: str, private: bool) -> set[str]:
    """The files that the upload replaces, if they are ours to replace."""
    there = {file.rfilename for file in info.siblings or ()} - {HUBS_OWN}
    if there and marker not in there:
        raise UserError(f'--repo: "{repo}" is taken by something that editkit did not publish; choose another name')
    if private and not info.private:
        raise UserError(f'--private: "{repo}" is there already and public; make it private on the Hub, or choose another name')
    return there


@contextmanager
def _asking(endpoint: str, state: str) -> Generator[None, None, None]:
    """Whatever goes wrong with a request becomes one line that says what `state` the Hub is in, without header or token."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise UserError(f"{endpoint} refused ({status}): {REASONS.get(status, 'try again later')}; {state}") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:  # OSError is what the store of large files raises
        raise UserError(f"the upload to {endpoint} failed ({type(error).__name__}); {state}; try again") from None
