"""Is the base model still the one that was trained on? An adapter on another base is another model, silently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastft.errors import ModelError
from fastft.files import sha256_of
from fastft.model_files import resolve_model

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """The model that was loaded: its name (Unsloth may take a 4-bit repository for a 16-bit one), the Hub's commit,
    and sha256 of config.json and of each weight file."""

    model_name: str
    commit: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def require_same(self, found: BaseIdentity) -> None:
        """Raises ModelError if `found` holds other files under the same name. Another name is not compared: then one
        is the 4-bit form of the other."""
        if found.model_name != self.model_name or not self.files:
            return
        names = sorted({*self.files, *found.files})
        changed = next((name for name in names if self.files.get(name) != found.files.get(name)), None)
        if changed is not None:
            what = "is not the file that was trained on" if changed in found.files else "is gone"
            raise ModelError(
                f"The base model {self.model_name} has changed since the training: {changed} {what}",
                hint="The adapter fits the former base only. Put that back, or train again on this one.",
            )


def identify(model_name: str, revision: str | None = None) -> BaseIdentity:
    """The identity of a model, its files found or fetched as in training."""
    return identify_folder(model_name, resolve_model(model_name, revision, weights=True))


def identify_folder(model_name: str, folder: Path) -> BaseIdentity:
    """The identity of the model in `folder`."""
    commit = folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None
    files = sorted(p for p in (*folder.glob("config.json"), *folder.glob("*.safetensors")) if p.is_file())
    return BaseIdentity(model_name, commit, {path.name: _sha256(path) for path in files})


def _sha256(path: Path) -> str:
    """The Hub's cache names large files by their sha256, so those needn't be read."""
    name = path.resolve().name
    return name if path.is_symlink() and _SHA256.fullmatch(name) else sha256_of(path)
