"""Upload a folder to the hub, through huggingface_hub, and say before what would stop it."""

import shlex
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.utils import validate_repo_id

from lobes.errors import ConfigError, RunError, first_line
from lobes.modeling.safe_loading import quiet


def check_upload(name: str) -> None:
    """Raise `ConfigError` for what cannot be a name on the hub, without a token, and offline."""
    fault = None
    try:
        validate_repo_id(name)
    except ValueError:
        fault = "a model's name has letters, digits, '-', '_' and '.', as in YOU/smaller"
    if fault is None and constants.HF_HUB_OFFLINE:
        fault = "HF_HUB_OFFLINE=1 forbids connections; unset it"
    if fault is None and get_token() is None:
        fault = "there is no token of yours; run `hf auth login`, or set HF_TOKEN"
    if fault:
        raise ConfigError(f"{name!r} cannot be uploaded: {fault}.")


def upload(folder: Path, name: str, *, message: str, private: bool = False) -> str:
    """Upload a folder as a model of the hub, made where there is none; return its address.

    Raises `RunError` where the hub refuses it or is not reached, and where it is to be private and
    is there already for all to see; the folder stays as it is.
    """
    hub, again = HfApi(), ["hf", "upload", name, str(folder), *(["--private"] if private else [])]
    try:
        with quiet():
            made = hub.create_repo(name, private=private or None, exist_ok=True)
            # one that is there stays as public as it is
            shown = private and not hub.model_info(made.repo_id).private
            if not shown:
                hub.upload_folder(
                    repo_id=made.repo_id, folder_path=str(folder), commit_message=message
                )
    except Exception as error:  # of the connection, of the hub, of any of its clients
        raise RunError(
            f"{name!r} was not uploaded to {hub.endpoint}: {first_line(error)}. The model is whole "
            f"in {folder}: `{shlex.join(again)}` tries again."
        ) from error
    if shown:
        raise RunError(
            f"{name!r} is on {hub.endpoint} already, for all to see, so the private model in "
            f"{folder} was not uploaded: give another name, or make it private there, then "
            f"`{shlex.join(again)}`."
        )
    return str(made)
