"""Locks and durable writes, also where the file system can't do them to a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.files import at_home, is_folder, make_durable, take_lock

HOLDING = "import sys; from pathlib import Path; from fastft.files import take_lock; l = take_lock(Path(sys.argv[1]))"


@pytest.fixture
def unable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have locks and fsync fail as the kernel has them fail on NFS (folders only) and on mounts without any."""

    def forbid(code: int, *, folders_only: bool = True) -> None:
        def refusing(does: Callable[..., Any]) -> Callable[..., Any]:
            def call(descriptor: int, *given: Any) -> Any:
                local = f"{tempfile.gettempdir()}/fastft-" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
                if stat.S_ISDIR(os.fstat(descriptor).st_mode) or not (folders_only or local):
                    raise OSError(code, os.strerror(code))
                return does(descriptor, *given)

            return call

        monkeypatch.setattr(fcntl, "flock", refusing(fcntl.flock))
        monkeypatch.setattr(os, "fsync", refusing(os.fsync))

    return forbid


def _is_exclusive(folder: Path) -> None:
    lock = take_lock(folder)
    assert lock is not None
    assert take_lock(folder) is None
    os.close(lock)
    again = take_lock(folder)
    assert again is not None
    os.close(again)


def test_a_lock_is_one_processs_and_ends_with_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"{HOLDING}; print(l, flush=True); input()", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert take_lock(tmp_path) is None
        other.kill()
    _is_exclusive(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EBADF, errno.EINVAL])
def test_where_folders_cannot_be_locked_a_file_in_it_is(code: int, tmp_path: Path, unable: Callable[..., None]) -> None:
    unable(code)
    _is_exclusive(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_nothing_can_be_locked_this_machine_still_keeps_two_apart(
    code: int, tmp_path: Path, unable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    (tmp_path / "run").mkdir()
    unable(code, folders_only=False)
    _is_exclusive(tmp_path / "run")


def test_a_folder_whose_names_cannot_be_made_durable_is_no_error_and_a_file_is(
    tmp_path: Path, unable: Callable[..., None]
) -> None:
    unable(errno.EINVAL)
    make_durable(tmp_path)
    unable(errno.EIO, folders_only=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="Input/output"):
        make_durable(tmp_path / "file")


def test_any_text_may_be_given_as_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pathlib raises over a name that is too long, and over a user's folder that there is not."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/x") == tmp_path / "x"
    assert at_home("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert is_folder("~")
    assert not any(is_folder(text) for text in ("x" * 5000, "a\0b", "~nobody-of-this-name"))
