"""``mae-lite push``: a finished model into a repository of the Hugging Face Hub, through its own library.

The token is the library's affair: of ``HF_TOKEN`` or its login. It goes into no argument, message or file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mae_lite import files, rundir
from mae_lite.addresses import HIDDEN
from mae_lite.cards import card, origin
from mae_lite.cards.readme import readme
from mae_lite.data import fetch_rules
from mae_lite.errors import CheckpointError, ConfigError, DiskError, MaeLiteError, shortly
from mae_lite.exporting import export, subject

_HUB, _ANSWER_S = "https://huggingface.co", 20.0
_MODEL, _CARD = ("config.json", "model.safetensors"), "README.md"
_FORMS = ("timm", "timm-half")
_T = TypeVar("_T")


def check_name(repo: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        ConfigError: says how they are written.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not listed, but documented

    try:
        validate_repo_id(repo)
        right = repo.count("/") == 1
    except HFValidationError:
        right = False
    if not right:
        expected = "OWNER/NAME of letters, digits, '-', '_' and '.', at most 96 of them"
        raise ConfigError("the repository", found=repr(repo), expected=expected, fix="mae-lite push MODEL me/my-model")


def contents(source: str, repo: str, licence: str | None) -> dict[str, bytes]:
    """Return what a repository gets: ``config.json``, ``model.safetensors`` and ``README.md``.

    Args:
        source: an export with a form for timm, a finished run, or a folder that timm reads.
        repo: OWNER/NAME, which the README names.
        licence: of the model; None takes what its card, or itself, states.

    Raises:
        CheckpointError: when it is none of them, damaged, or its card is of other weights.
    """
    folder = Path(source)
    if (folder / export.RECORD).exists():
        place, form, digest = _exported(folder)
        model = subject.load(str(place))
    else:
        model = subject.load(source)
        place, form, digest = model.folder, "torch", subject.weights_digest(model.folder)
        folder = export.default(model, "card")
    found = files.read_folder(place) if (place / files.MANIFEST).exists() else {}
    for name in _MODEL:
        if not (place / name).is_file():
            fix = f"mae-lite convert {source} FOLDER --to timm, and push FOLDER"
            raise CheckpointError(f"{str(place)!r} has no {name}", expected=" and ".join(_MODEL), fix=fix)
        found.setdefault(name, (place / name).read_bytes())
    text = _own_card(folder, source, form, digest, repo, licence)
    if text is None:
        facts = {**origin.about(model, licence), **model.preprocessing(), "provenance": origin.provenance(model)}
        text = readme({**facts, "title": repo.partition("/")[2], "forms": [], "quality": None}, repo).encode()
    return {**{name: found[name] for name in _MODEL}, _CARD: text}


def _exported(folder: Path) -> tuple[Path, str, str | None]:
    """Return the folder and name of an export's form for timm, and the hash of the weights that it was made of."""
    record = rundir.read_json(folder / export.RECORD, "an export")
    try:
        rows = {str(row["form"]): dict(row["files"]) for row in record["forms"]}
        form = next((form for form in _FORMS if form in rows), None)
        if form is None:
            what, named = f"{str(folder)!r} has no form that a repository can hold", ", ".join(_FORMS)
            fix = f"mae-lite export {record['source']} --to timm --out FOLDER, and push FOLDER"
            raise CheckpointError(what, found=", ".join(rows), expected=named, fix=fix)
        for name, known in rows[form].items():
            card.check_file(folder / form / name, str(known["sha256"]))
    except (KeyError, TypeError) as error:
        what = f"{str(folder / export.RECORD)!r} is not as mae-lite writes it"
        raise CheckpointError(what, found=repr(error), fix="export again") from error
    return folder / form, form, record.get("weights_sha256")


def _own_card(folder: Path, source: str, form: str, digest: str | None, repo: str, licence: str | None) -> bytes | None:
    """Return the README that ``mae-lite card`` has made in ``folder``, for this form; one changed by hand as it is."""
    path = folder / _CARD
    if not path.is_file() or not (folder / "card.json").is_file():
        return None
    known = rundir.read_json(folder / files.MANIFEST, "a card").get(_CARD)
    text = path.read_bytes()
    if not isinstance(known, dict) or files.sha256(text) != known.get("sha256"):
        return text
    record = rundir.read_json(folder / "card.json", "a card")
    if record.get("weights_sha256") != digest:
        raise CheckpointError(f"the card in {str(folder)!r} is of other weights", fix=f"mae-lite card {source}")
    forms = [one for one in record["forms"] if one["form"] in ("torch", form)]
    return readme({**record, "forms": forms, "licence": licence or record["licence"]}, repo).encode()


def push(made: Mapping[str, bytes], repo: str, private: bool = False) -> list[str]:
    """Bring files into a repository, which is created where it is not there, in one commit.

    Args:
        made: files by name; others that are there stay.
        repo: OWNER/NAME.
        private: create it for its owner alone; one that is there and public is refused.

    Returns:
        Names of the files that were not there as they are now; none means that nothing had to be done.

    Raises:
        ConfigError: when a private repository is asked for and it is public.
        DiskError: without a token, when the hub refuses, or gives no answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    place = os.environ.get("HF_ENDPOINT") or _HUB
    fetch_rules.check(place)
    token = get_token()
    if not token:
        fix = "set HF_TOKEN to one with write access, or log in with: hf auth login"
        raise DiskError("the hub's library has no token", expected="one from HF_TOKEN or its login", fix=fix)
    api = HfApi(endpoint=place, token=token)

    def there() -> Any:
        try:
            return api.model_info(repo, files_metadata=True, timeout=_ANSWER_S)
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:  # a token that is not known looks the same
                raise
            return None

    info = _asked(there, repo, token)
    if info is None:
        _asked(lambda: api.create_repo(repo, private=private or None, exist_ok=True), repo, token)
    elif private and not info.private:
        fix = "make it private in its settings, give another name, or drop --private"
        raise ConfigError(f"{repo} is there already, and public", expected="a private repository", fix=fix)
    hashes = {one.rfilename: one.lfs.sha256 if one.lfs else one.blob_id for one in (info and info.siblings) or ()}
    changed = [name for name, data in made.items() if hashes.get(name) not in (files.sha256(data), _blob(data))]
    if changed:
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=made[name]) for name in changed]
        message = f"mae-lite push: {', '.join(changed)}"
        _asked(lambda: api.create_commit(repo, operations, commit_message=message), repo, token)
    return changed


def _blob(data: bytes) -> str:
    """Return the name that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _asked(action: Callable[[], _T], repo: str, token: str) -> _T:
    try:
        return action()
    except MaeLiteError:
        raise
    except Exception as error:  # the library's own, its HTTP client's, and the system's
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in (401, 403):
            raise DiskError(
                f"the hub refused {repo}",
                found=f"HTTP status {status}",
                expected=f"a token with write access to {repo.partition('/')[0]}",
                fix="see whose token it is with: hf auth whoami; make one that may write, and set HF_TOKEN to it",
            ) from None
        raise DiskError(
            f"{repo} cannot be pushed",
            found=f"HTTP status {status}" if status else shortly(error).replace(token, HIDDEN),
            expected="an answer of the hub",
            fix="see to the network and run the same command again: a repository changes as a whole or not at all",
        ) from None
