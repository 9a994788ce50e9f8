"""What is exported and proven: a run's adapter or whole model, or any PEFT adapter folder, on its base."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.base_identity import BaseIdentity
from fastft.errors import ModelError
from fastft.files import sha256_of

if TYPE_CHECKING:
    from fastft.exporters.base_model import BaseModel
    from fastft.run import Run

_IN_4_BITS = re.compile(r"(-unsloth)?-bnb-4bit$")  # how Unsloth ends the names of quantised models


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: a LoRA adapter on its base model, or the folder of a fully fine-tuned model."""

    folder: Path
    is_adapter: bool
    model_name: str
    revision: str | None
    label: str  # goes into GGUF metadata as the model's name
    trained_on: BaseIdentity

    def base(self) -> BaseModel:
        """Raises ModelError if the base is gone, or isn't the one the adapter was trained on."""
        from fastft.exporters.base_model import BaseModel

        if not self.is_adapter:
            return BaseModel(self.folder, self.model_name, "fully fine-tuned weights")
        return self.before_training()

    def before_training(self) -> BaseModel:
        """The 16-bit model that training began with. Raises ModelError as `base`."""
        from fastft.exporters.base_model import resolve_base

        return resolve_base(self.model_name, self.revision, self.trained_on)

    @property
    def classifies(self) -> bool:
        """Whether it is a reward model, which gives a score instead of text."""
        from fastft.exporters.classifier import holds_classifier

        return holds_classifier(self.folder)

    def fingerprint(self) -> str:
        """Of the trained files' content: two exports of one fingerprint and dtype hold the same weights.

        An adapter's exports lie in a folder below its files.
        """
        hashes = {path.name: sha256_of(path) for path in sorted(self.folder.iterdir()) if path.is_file()}
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Trained:
    """What exports are made of and compared with, and where they lie. `heldout`: a file of conversations, if any."""

    source: Source
    exports: Path
    heldout: Path | None = None

    @classmethod
    def of_run(cls, run: Run) -> Trained:
        """Raises ModelError if the run isn't finished, or its adapter was changed."""
        manifest = run.trained_manifest()
        model, folder = manifest["model"], trained_folder(run)
        base, label = BaseIdentity(**model["base"]), _label(model["model_name"], manifest.get("method", ""))
        source = Source(folder, folder == run.adapter, model["model_name"], model["revision"], label, base)
        return cls(source, run.exports, run.heldout_path)

    @classmethod
    def of_adapter(cls, adapter: Path, exports: Path, base: str | None = None) -> Trained:
        """Any PEFT LoRA folder, on the base it names or on `base`. Raises ExportError if it is none."""
        from fastft.exporters.lora import read_config

        adapter = adapter.absolute()
        config = read_config(adapter)
        named = base or config["base_model_name_or_path"]
        revision = None if base else config.get("revision")
        source = Source(adapter, True, named, revision, adapter.name, BaseIdentity(named))
        return cls(source, exports.absolute())

    def as_job(self) -> dict[str, Any]:
        """Values that JSON can carry to another process."""
        heldout = str(self.heldout) if self.heldout else None
        source = {**asdict(self.source), "folder": str(self.source.folder)}
        return {"source": source, "exports": str(self.exports), "heldout": heldout}

    @classmethod
    def from_job(cls, values: dict[str, Any]) -> Trained:
        """What `as_job` made `values` of."""
        source = dict(values["source"])
        source |= {"folder": Path(source["folder"]), "trained_on": BaseIdentity(**source["trained_on"])}
        heldout = Path(values["heldout"]) if values["heldout"] else None
        return cls(Source(**source), Path(values["exports"]), heldout)


def _label(model_name: str, method: str) -> str:
    """Of the model and what was done to it: exports hold nothing of where they were made, so equal runs' are equal."""
    return "-".join(filter(None, (_IN_4_BITS.sub("", Path(model_name).name), method)))


def trained_folder(run: Run) -> Path:
    """The adapter, or the model of a full fine-tune. Raises ModelError if the run has neither."""
    for folder in (run.adapter, run.model_dir):
        if folder.is_dir():
            return folder
    raise ModelError(
        f"The run {run.directory} holds no trained model: neither adapter/ nor model/",
        hint=f"Go on with the training: fastft train --resume {run.directory}",
    )
