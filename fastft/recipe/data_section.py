"""The data section of a recipe: where rows are, how they are laid out, and what is learned of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from fastft.recipe import checks
from fastft.recipe.section import NonEmpty, Section

DataFormat = Literal[
    "auto",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "text",
    "preference",
    "unpaired_preference",
    "prompt_only",
]
DATA_PATH = "a local .jsonl, .json, .csv, .parquet or .arrow file, a folder, a glob, or a Hub id (owner/name)"

Columns = Annotated[dict[str, str], BeforeValidator(checks.check_columns)]


class SourceSection(Section):
    """One part of a mixture: where it is, how it is laid out, and how much of it is seen (by default all of it)."""

    path: NonEmpty = Field(description="A file, folder, glob or Hub id.", json_schema_extra={"expected": DATA_PATH})
    name: NonEmpty | None = Field(default=None, description="Subset of the data set on the Hub.")
    split: NonEmpty | None = Field(default=None, description="Split of the Hub set or folder; null = train.")
    revision: NonEmpty | None = Field(default=None, description="Branch, tag or commit of the data set on the Hub.")
    format: DataFormat = Field(default="auto", description="How its rows are laid out; auto = data.format.")
    columns: Columns = Field(
        default={},
        description="The format's column name -> the file's; {} = data.columns.",
        json_schema_extra={"expected": "a mapping of the format's column names to the file's"},
    )
    fraction: float | None = Field(default=None, gt=0, le=1, description="A seeded random share of its rows.")
    count: int | None = Field(default=None, ge=1, description="So many of its rows, chosen at random, none twice.")
    weight: float | None = Field(default=None, gt=0, le=1000, description="How often its rows are seen; 0.5 = half.")

    def said(self) -> dict[str, Any]:
        """Only what says something: the rest would read back as the same."""
        return {key: value for key, value in self.model_dump().items() if value not in (None, {}, "auto")}


def _said_path(path: str | tuple[SourceSection, ...]) -> str | list[dict[str, Any]]:
    return path if isinstance(path, str) else [part.said() for part in path]


class DataSection(Section):
    """What is learned from."""

    path: Annotated[
        str | tuple[SourceSection, ...],
        PlainValidator(lambda value: checks.check_data_path(value, SourceSection)),
        PlainSerializer(_said_path),
    ] = Field(
        description="The data set, or a list of them: each a path, or {path, fraction | count | weight, name, split, "
        "revision, format, columns}. A folder holds train.jsonl and the like; relative paths are tried beside the "
        "recipe, then under the current folder.",
        json_schema_extra={"expected": f"{DATA_PATH}, or a list of these"},
    )
    name: NonEmpty | None = Field(default=None, description="Subset of the data set on the Hub.")
    split: NonEmpty = Field(default="train", description="Split of the Hub set, or of the folder.")
    revision: NonEmpty | None = Field(default=None, description="Branch, tag or commit of the data set on the Hub.")
    format: DataFormat = Field(default="auto", description="How rows are laid out; auto tells it from the columns.")
    columns: Columns = Field(
        default={},
        description="The format's column name -> the file's column name, where they differ.",
        json_schema_extra={"expected": "a mapping of the format's column names to the file's"},
    )
    roles: Annotated[dict[str, tuple[str, ...]], BeforeValidator(checks.check_roles)] = Field(
        default={},
        description="Role -> the set's own names of it, where turns name their speaker otherwise: {user: [customer]}. "
        "The keys of turns are mapped in columns: {from: speaker, value: said}.",
        json_schema_extra={"expected": "a mapping of system, user, assistant or tool to a name or a list of names"},
    )
    eval_split: Annotated[float | int | str | None, PlainValidator(checks.check_eval_split)] = Field(
        default=None,
        description="Held-out rows: a share, a count, a file of their own, or a split of the Hub set or folder.",
        json_schema_extra={"expected": "a share between 0 and 1, a whole number of rows, a file, or a split's name"},
    )
    chat_template: NonEmpty | None = Field(
        default=None,
        description="null = the model's own; a .jinja file; or a name: one of Unsloth's, of TRL's (trl:qwen3), or "
        "plain, for base models without a template.",
    )
    train_on: Literal["assistant", "last", "all", "tool_calls"] = Field(
        default="assistant",
        description="What is learned: every assistant turn, the last one, all text, or only turns that call tools.",
    )
    truncation: Literal["keep_start", "keep_end", "drop", "split_turns"] = Field(
        default="keep_start",
        description="What becomes of a conversation longer than the maximum length; split_turns makes several of it, "
        "cut between turns.",
    )
    on_error: Literal["stop", "skip"] = Field(
        default="stop",
        description="What broken rows and lines do: stop, with all of them named, or be left out, counted and listed.",
    )
    deduplicate: bool = Field(default=False, description="Leave out rows that say exactly the same as an earlier one.")
