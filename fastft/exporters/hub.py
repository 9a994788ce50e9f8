"""Uploading exports to the Hub: one repository for each kind, one commit each, with a card made from the manifest.

Only exports that were proven go up. The token comes from HF_TOKEN or from `hf auth login`, and is written nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.exporters.card import model_card
from fastft.run_files import has_passed, read_export

if TYPE_CHECKING:
    from rich.console import Console

    from fastft.exporters import OnProgress
    from fastft.exporters.source import Trained
    from fastft.recipe.schema import ExportSection

# format: what its repository's name ends with, after export.hub_model_id
REPOSITORIES = {
    "merged_16bit": "",
    "merged_4bit": "-bnb-4bit",
    "adapter": "-lora",
    "gguf_lora": "-lora-GGUF",
    "gguf": "-GGUF",
}
_TOKEN = "Set HF_TOKEN to a token that may write, or run: hf auth login"


def upload_exports(
    trained: Trained,
    section: ExportSection,
    *,
    on_progress: OnProgress | None = None,
    console: Console | None = None,
) -> list[str]:
    """Upload the exports of `section` (all there are, where it names only hub); returns the repositories' addresses.

    Raises ExportError for an export that isn't there or wasn't proven, for want of a token, and with the Hub's reason.
    """
    assert section.hub_model_id is not None  # the recipe's rules see to it
    groups = _groups(trained.exports, section)
    _require_token()
    urls = []
    for number, (kind, folders) in enumerate(groups.items()):
        repository = section.hub_model_id + REPOSITORIES[kind]
        if on_progress:
            on_progress(f"upload {repository}", number, len(groups))
        card = model_card(kind, repository, folders, trained, trained.exports.parent / "manifest.json")
        urls.append(_upload(repository, _files(kind, folders), card, private=section.hub_private_repo))
        if console is not None:
            console.print(f"  uploaded {', '.join(folder.name for folder in folders)} to {urls[-1]}", soft_wrap=True)
    return urls


def _groups(exports: Path, section: ExportSection) -> dict[str, list[Path]]:
    """The export folders for each repository. Raises ExportError for one that may not be uploaded."""
    wanted = [name for name in REPOSITORIES if name in section.formats] or list(REPOSITORIES)
    groups: dict[str, list[Path]] = {}
    for manifest in sorted(exports.glob("*/export.json")):
        facts = {"format": None, "quantization": None, **read_export(manifest.parent)}
        asked = facts["format"] != "gguf" or not section.gguf_types or facts["quantization"] in section.gguf_types
        if facts["format"] in wanted and asked:
            groups.setdefault(facts["format"], []).append(manifest.parent)
    if not groups:
        raise ExportError(f"There is nothing to upload in {exports}", hint="Name formats besides hub.")
    unproven = [f.name for folders in groups.values() for f in folders if section.verify and not has_passed(f)]
    if unproven:
        raise ExportError(
            f"{', '.join(unproven)} can't be uploaded: it was not proven to be what was trained",
            hint="fastft verify says what differs. With --no-verify it is uploaded all the same, and its card says so.",
        )
    return groups


def _files(kind: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Name in the repository: file. Of several GGUF types in one repository, what they share a name for gets theirs."""
    files: dict[str, Path] = {}
    for folder in folders:
        ending = f"-{folder.name.removeprefix('gguf-')}" if kind == "gguf" else ""
        listed = read_export(folder)["files"]
        for name in (*listed, "export.json", "verification.json"):
            path, own = folder / name, Path(name)
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ExportError(f"{path} leads out of {folder}: it isn't uploaded", hint="Make the export again.")
            if path.is_file():
                shared = own.suffix != ".gguf"
                files[str(own.with_stem(own.stem + ending)) if shared else name] = path
    return files


def _require_token() -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise ExportError("The Hub takes no upload without a token, and none was found", hint=_TOKEN)


def _upload(repository: str, files: dict[str, Path], card: str, *, private: bool) -> str:
    """One commit with everything in it, so that a repository never holds half an export; its address."""
    from httpx import HTTPError
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    api = HfApi(library_name="fastft")
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message="Exported by fastft")
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        hint = _TOKEN if status in (401, 403) else "The exports are kept; fastft export RUN --format hub tries again."
        raise ExportError(f"The Hub refused {repository}: {_first_line(error)}", hint=hint) from error
    except HFValidationError as error:
        raise ExportError(f"{repository} is no name for a repository: {_first_line(error)}") from error
    except (HTTPError, OSError) as error:
        raise ExportError(
            f"The Hub can't be reached: {_first_line(error)}",
            hint="The exports are kept; fastft export RUN --format hub tries again.",
        ) from error
    return str(url)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
