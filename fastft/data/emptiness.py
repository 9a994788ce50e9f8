"""When nothing is left of a data set: why, with a row of each reason."""

from __future__ import annotations

from fastft.data.audit import Audit
from fastft.data.faults import Dropped
from fastft.data.preferences import LONG_PROMPT
from fastft.data.render import TOO_LONG
from fastft.errors import DatasetError, Fault


def require_some(examples: int, audit: Audit, purpose: str) -> None:
    """Raises DatasetError with every reason and a row of each if no example came of the data."""
    if examples:
        return
    lost = sum(tally.count for tally in audit.dropped.values())
    faults = [
        Fault(tally.places[0], _why(Dropped(tally.places[0], reason, tally.detail), tally.count), "")
        for reason, tally in audit.dropped.items()
    ]
    raise DatasetError(
        f"{audit.source}: nothing is left {purpose}: "
        + ("the only row was left out" if lost == 1 else f"all {lost:,} rows were left out"),
        hint=f"Raise model.max_seq_length (and training.max_length if it is set){_or_cut(audit)}."
        if set(audit.dropped) <= {TOO_LONG, LONG_PROMPT}
        else "See data.train_on, data.truncation, data.chat_template and model.max_seq_length.",
        faults=faults,
    )


def _or_cut(audit: Audit) -> str:
    """Conversations may lose their start; prompts that answers are compared or rewarded for may not."""
    whole = any(name in audit.format for name in ("preference", "prompt_only"))
    return "" if whole else ", or set data.truncation: keep_end"


def _why(drop: Dropped, rows: int) -> str:
    reason = f"{drop.reason} ({rows:,} {'row' if rows == 1 else 'rows'})"
    return f"{reason}: {drop.detail}" if drop.detail else reason
