"""Where a publication goes: a folder, replaced whole, or repositories on the Hub."""

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, get_token

from insightv.config import UserError
from insightv.files import explained, sync
from insightv.publish.gather import FILES, Kind
from insightv.store import read_manifest

_PART = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_NAME = re.compile(f"{_PART}/{_PART}")
REPO_TYPES: dict[Kind, str] = {"data": "dataset", "model": "model"}


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with explained(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_replaceable(target: Path) -> None:
    """A folder that is to be replaced holds what an earlier publication wrote there and nothing else, or it is a `UserError`."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise UserError(f"{target} is in the way: it is no folder; move it or choose another destination")
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_symlink() or not path.is_dir()}
    written = read_manifest(target).get("published")
    ours = {**written["files"], "manifest.json": None} if isinstance(written, dict) else {}
    for name in sorted(found):
        if name not in ours or (ours[name] and sha256(target / name) != ours[name]):
            what = "was changed since it was published" if name in ours else "was not put there by insightv publish"
            raise UserError(f"{target} is not replaced, because {name} in it {what}; move it or choose another destination")


def place(folder: Path, target: Path) -> None:
    """Copy a folder, links followed, beside `target` and rename it over an earlier publication there."""
    part, aside = (target.with_name(f".{target.name}.{end}") for end in ("part", "old"))
    with explained(target):
        for left in (part, aside):
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(folder, part, copy_function=shutil.copyfile)
        for path in (*part.rglob("*"), part):
            sync(path)
        if target.exists():
            target.rename(aside)
        part.rename(target)
        sync(target.parent)
        shutil.rmtree(aside, ignore_errors=True)


def check_names(repos: Sequence[str]) -> None:
    """The repositories can be called so, or it is a `UserError`."""
    for repo in repos:
        if not _NAME.fullmatch(repo) or len(repo) > 96:
            raise UserError(f"{repo!r} cannot be a name on the Hub: it must read OWNER/NAME, of letters, digits, single - and ., and _, 96 at most")


def log_in(endpoint: str | None) -> HfApi:
    """A client of the Hub, with the user's token."""
    if not (token := get_token()):
        raise UserError("the Hub wants a token: run `hf auth login` with one that may write, or set HF_TOKEN")
    return HfApi(endpoint=endpoint, token=token, library_name="insightv")


def upload(api: HfApi, folder: Path, repo: str, kind: Kind, *, public: bool, message: str) -> None:
    """Make the repository if there is none and bring its files to what the folder holds; others than ours are left alone.

    What is there already is not sent again, so an upload that broke off goes on. A repository that is public though it should not be is a
    `UserError`, before a file is sent.
    """
    kept = ["*.md", "*.yaml", "manifest.json", *FILES[kind]]
    try:
        api.create_repo(repo, repo_type=REPO_TYPES[kind], private=not public, exist_ok=True)
        exposed = not public and not api.repo_info(repo, repo_type=REPO_TYPES[kind]).private
        if not exposed:
            api.upload_folder(
                repo_id=repo, folder_path=folder, repo_type=REPO_TYPES[kind], commit_message=message, allow_patterns=kept, delete_patterns=list(FILES[kind])
            )
    except Exception as error:
        # Whatever goes wrong there: client, transfer library and server each have errors of their own.
        raise UserError(f"{repo}: the upload ended with {type(error).__name__}: {' '.join(str(error).split())[:300]}; run the same command to go on") from error
    if exposed:
        raise UserError(f"{repo} is there already and public; pass --public if that is meant, make it private on the Hub, or choose another name")
