"""The adapter as a folder of its own, with the tokenizer and template it was trained with: for PEFT, vLLM, the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.files import write_json
from fastft.run_files import read_adapter_config

if TYPE_CHECKING:
    from fastft.exporters.workbench import Target, Workbench


def export(bench: Workbench, target: Target, out: Path) -> dict[str, Any]:  # noqa: ARG001
    """Copy the adapter into `out`, byte for byte but for the revision of its base; returns how, for export.json."""
    from fastft.exporters.lora import read_config
    from fastft.exporters.merged import copy_tokenizer, write_generation_config

    source = bench.source
    if not source.is_adapter:
        raise ExportError(NO_ADAPTER, hint="Export merged_16bit or gguf.")
    read_config(source.folder)  # refuses what is none
    for path in sorted(source.folder.glob("adapter_*")):
        if path.is_file():  # copying a device never ends
            shutil.copyfile(path, out / path.name)
    _pin_base(out / "adapter_config.json", source.revision)
    copy_tokenizer(source.folder, bench.base.folder, out)
    own = (source.folder / "generation_config.json").is_file()
    write_generation_config(source.folder if own else bench.base.folder, out)
    return {"base": source.model_name, "revision": source.revision}


NO_ADAPTER = "A full fine-tune has no adapter to export"


def _pin_base(path: Path, revision: str | None) -> None:
    """The Hub's base may change; PEFT loads the revision that its configuration names."""
    config = read_adapter_config(path.parent, ExportError)
    if revision and config.get("revision") != revision:
        write_json(path, {**config, "revision": revision})
