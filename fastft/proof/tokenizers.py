"""transformers' own tokenizer of an exported folder against the one that was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from fastft.proof.checks import facts_check, ids_check, text_check
from fastft.proof.reference import Reference
from fastft.proof.result import Check
from fastft.run_files import read_generation


def tokenizer_checks(reference: Reference, folder: Path) -> Iterator[Check]:
    """transformers' own tokenizer of the folder, which fastft's labels were not made with, against the trained one."""
    from transformers import AutoTokenizer

    trained = reference.tokenizer
    try:
        loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        yield Check("tokenizer loads", "no", "yes", False, str(error).strip().splitlines()[0])
        return
    if loaded.chat_template is None:
        yield Check("chat template", "none", "the trained one", False, f"{folder} holds no chat_template.jinja")
        return
    rendered = [trained.render(p.messages, tools=p.tools, add_generation_prompt=True) for p in reference.chats]
    places = [probe.place for probe in reference.chats]
    encoded = [loaded(text, add_special_tokens=False)["input_ids"] for text in rendered]
    expected = [probe.prompt_ids for probe in reference.chats]
    yield ids_check("token ids", list(zip(places, expected, encoded, strict=True)), trained)
    yield text_check("prompt text", _rendered(reference, loaded))
    yield facts_check("special tokens", _special_tokens(reference, loaded, folder))


def _rendered(reference: Reference, loaded: Any) -> list[tuple[str, str, str]]:
    now = datetime.now()
    pairs = []
    for probe in reference.chats:
        expected = reference.tokenizer.render(probe.messages, tools=probe.tools, add_generation_prompt=True, now=now)
        found = loaded.apply_chat_template(
            probe.messages, tools=probe.tools, add_generation_prompt=True, tokenize=False
        )
        pairs.append((probe.place, expected, found))
    return pairs


def _special_tokens(reference: Reference, loaded: Any, folder: Path) -> list[tuple[str, object, object, bool]]:
    trained = reference.tokenizer
    path = folder / "generation_config.json"
    settings = read_generation(path) if path.is_file() else {}
    stops = settings.get("eos_token_id")
    stops = stops if isinstance(stops, list) else [stops]
    facts: list[tuple[str, object, object, bool]] = [
        (f"tokenizer {name}", mine, theirs, mine == theirs)
        for name, mine, theirs in (
            ("bos_token_id", trained.bos_token_id, loaded.bos_token_id),
            ("eos_token_id", trained.eos_token_id, loaded.eos_token_id),
            ("pad_token_id", trained.pad_token_id, loaded.pad_token_id),
        )
    ]
    end = trained.end_of_turn_id
    facts.append(("generation_config.json eos_token_id", end, settings.get("eos_token_id"), end in stops))
    return facts
