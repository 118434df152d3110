"""Saved models on the Hub: what can be found out before the work, and the upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svl_core.errors import InputError
from svl_core.lvlm.card import is_repository

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def hub_api() -> Any:
    """The Hub's client."""
    from huggingface_hub import HfApi

    return HfApi()


def check_push(repository: str) -> None:
    """Finds out whether a model could be pushed, before the work that makes it.

    repository: USER/NAME.

    Raises InputError for a name that is none, and where there is no token, the token is refused,
    it is not for that user, or the Hub cannot be reached.
    """
    if not is_repository(repository):
        raise InputError(
            f"Found {repository[:100]!r} as the place on the Hub; expected USER/NAME in letters,"
            " digits, '-', '_' and '.', and no folder of that name here; correct it."
        )
    user = repository.partition("/")[0]
    try:
        known = hub_api().whoami()
    except Exception as error:  # no token, a refused one, no network: each has its own
        raise _refusal(repository, error) from error
    places = [known.get("name"), *(place.get("name") for place in known.get("orgs", ()))]
    if user not in places:
        raise InputError(
            f"Found {repository} as the place on the Hub, which the login of {known.get('name')!r}"
            f" may not write; expected one of {', '.join(map(str, places))} before the '/'; change"
            f" it, or {LOGIN} as another."
        )


def push(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
) -> str:
    """Uploads a saved model's folder; returns its address.

    repository: USER/NAME; made where there is none.
    private: whether a new one is.

    Raises InputError where that fails. The Hub takes all files in one step or none.
    """
    api = hub_api()
    try:
        made = api.create_repo(
            repository,
            private=private,
            exist_ok=True,
        )
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            commit_message="Upload a model pruned with Short-LVLM Explorer",
        )
    except Exception as error:
        raise _refusal(repository, error) from error
    return str(made)


def _refusal(
    repository: str,
    error: Exception,
) -> InputError:
    """What the Hub's client raised, in a sentence."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = " ".join(str(error).split())[:160]
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        found = "no login that it takes" if status else "no login"
        return InputError(
            f"Found {found} for the Hub; expected one that may write {repository}; {LOGIN}."
        )
    if status == 403:
        return InputError(
            f"Found a login that may not write {repository}; expected one that may; {LOGIN} with a"
            " token of the role 'write'."
        )
    if isinstance(error, HfHubHTTPError):
        return InputError(
            f"Found that the Hub refuses {repository} ({said}); expected it to take the model; mend"
            " that, or save to a folder."
        )
    return InputError(
        f"Found that the Hub cannot be reached for {repository} ({said}); expected a network; check"
        " it, or save to a folder and upload later."
    )
