"""Single files of repositories on the Hugging Face hub: fetching and uploading."""

import os
from pathlib import Path
from typing import Any

from pabtune.records.errors import PabtuneError, first_line


def fetch_file(place: str | Path, name: str, error: type[PabtuneError], **download: Any) -> Path:
    """The path of a file in a local folder, or of its copy from a repository on the hub.

    Args:
        place: a local folder, or `owner/name`.
        name: of the file.
        error: class of the errors to raise.
        download: arguments of `huggingface_hub.hf_hub_download`, such as `revision`, `token`, `cache_dir`.

    Raises:
        PabtuneError: (as `error`) there is no such folder or repository, or it has no such file.
    """
    if os.path.isdir(place):
        return Path(place) / name
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(str(place), name, **download))
    except (OSError, HfHubHTTPError, HFValidationError) as problem:
        raise error(f"no {name} in {str(place)!r}: {first_line(problem)}") from problem


def upload_file(repo_id: str, name: str, content: bytes, **options: Any) -> None:
    """Uploads a file to a repository on the hub, which is created if it is missing.

    Args:
        repo_id: `owner/name`.
        name: of the file.
        content: of the file.
        options: arguments of `huggingface_hub.HfApi.upload_file`, such as `token`, `commit_message`, `revision`.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    api.create_repo(repo_id, exist_ok=True)
    api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo_id, **options)
