"""`fastft` in a process forked from one that has imported what it needs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def become_command(arguments: Sequence[str], given: Path, output: Path) -> NoReturn:
    """Be `fastft ARGUMENTS` to the end of this process: `given` is read from, all that is said is added to `output`."""
    code = 1
    try:
        for number, path, flags in ((0, given, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
            os.dup2(os.open(path, flags, 0o644), number)
        os.dup2(1, 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(os.dup(n), mode) for n, mode in enumerate("rww"))
        from fastft.cli import main

        main(list(arguments), prog_name="fastft")
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
