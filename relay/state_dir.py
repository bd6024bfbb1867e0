"""A directory that outlives the processes of a relay, and the lock that says whether any of them still lives.

Rules:
  1. Nothing is opened by its path but the directory itself, whose last component is no symbolic link, belongs to this
     user and is closed to all others; files in it are opened below its descriptor and must be plain files of ours.
  2. The lock (flock) belongs to the open file, which every child inherits: it is free only when launcher and workers
     are all gone. In the file stands which process is the launcher, so that one who waits can tell workers that are
     dying from a relay that runs.
  3. What tells what is here, the record, is replaced whole by a rename. Files it does not name are left over from a
     start that did not come to its end.
  4. Only files with names of ours are ever removed: somebody may name a directory that holds other things.

This room knows neither slots nor what the record says (`relay.state`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import stat
from pathlib import Path

from relay.runtime.errors import ConfigError, StateBusy

LOCK = "lock"
RECORD = "state.json"

_OURS = re.compile(r"lock|state\.json(\.new)?|control\.sock|slot-[\d.]+", re.ASCII)
_PAUSE_S = 0.005
_TRIES = 1000  # together 5 s: a killed process is gone in milliseconds, unless the kernel itself holds it up
_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last: a FIFO is to be refused, not waited for
_RECORD_MOST = 1 << 20


class StateDir:
    """The directory, locked by us and by all children to come."""

    def __init__(self, path: Path, fd: int, lock_fd: int) -> None:
        self.path = path
        self.fd = fd
        self.lock_fd = lock_fd

    @classmethod
    def take(cls, path: Path) -> StateDir:
        """Waits for processes that are dying; StateBusy if there is a launcher that lives, or they do not die."""
        for _ in range(_TRIES):
            fd = _open_directory(path)
            lock_fd = _open_lock(path, fd)
            if _locked(lock_fd):
                if _is_there(path, fd, lock_fd):
                    taken = cls(path, fd, lock_fd)
                    taken.say_launcher()
                    return taken
                holder = ""  # it was removed while we came: what is there now is another one
            else:
                holder = os.pread(lock_fd, 64, 0).decode("ascii", "replace").strip()
            os.close(lock_fd)
            os.close(fd)
            if holder and holder == _identity(holder.split()[0]):
                mend = "`relay upgrade` replaces it while calls go on; else end it first, or name another directory"
                raise _busy(path, f"a relay runs here, its launcher is process {holder.split()[0]}", mend)
            select.select([], [], [], _PAUSE_S)
        raise _busy(path, "the launcher of the relay that ran here is gone, but its workers do not end", "try again")

    @classmethod
    def join(cls, path: Path, lock_fd: int) -> StateDir:
        """With the lock of a launcher that shares it with us."""
        fd = _open_directory(path)
        if not _is_there(path, fd, lock_fd):
            os.close(fd)
            mend = "it goes on; end it, and start this one afterwards"
            raise ConfigError("the relay that runs has another one", where=f"--state-dir {path}", mend=mend)
        return cls(path, fd, lock_fd)

    def say_launcher(self) -> None:
        """From now on this process is the one that others are told of."""
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, _identity(str(os.getpid())).encode(), 0)

    # ---- files

    def names(self) -> list[str]:
        """Of files that are ours by their names."""
        return sorted(name for name in os.listdir(self.fd) if _OURS.fullmatch(name))

    def open_file(self, name: str, flags: int = 0) -> int:
        """An OSError that tells why, if it is none that could be ours."""
        return _open_file(self.fd, name, flags)

    def read_record(self) -> bytes | None:
        try:
            descriptor = self.open_file(RECORD)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            return file.read(_RECORD_MOST)

    def write_record(self, record: bytes) -> None:
        """Whoever looks finds the old one or this one, even if we are killed in here. It need not outlive the machine
        (nothing here does), so it need not reach a disk."""
        new = f"{RECORD}.new"
        self.remove(new)
        with open(self.open_file(new, os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(record)
        os.rename(new, RECORD, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def remove(self, name: str) -> None:
        assert _OURS.fullmatch(name), name
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            where = f"--state-dir {self.path}"
            raise ConfigError(f"cannot remove {name}: {error.strerror}", where=where, mend="remove it") from None

    def free_bytes(self) -> int:
        room = os.fstatvfs(self.fd)
        return room.f_bavail * room.f_frsize

    # ---- the end

    def clear(self) -> None:
        """Everything but the lock."""
        for name in self.names():
            if name != LOCK:
                self.remove(name)

    def destroy(self, *, directory_too: bool) -> None:
        """The lock's file goes last, as until then nobody else can have it."""
        self.clear()
        self.remove(LOCK)
        if directory_too:
            with contextlib.suppress(OSError):  # somebody put something there
                os.rmdir(self.path)

    def close(self) -> None:
        """Of this process; others may have it still."""
        os.close(self.lock_fd)
        os.close(self.fd)


def _busy(path: Path, what: str, mend: str) -> StateBusy:
    return StateBusy(what, where=f"--state-dir {path}", mend=mend)


# Opening


def _open_directory(path: Path) -> int:
    where, flags = f"--state-dir {path}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    mend = "name another, or `none` if nothing is to outlive the relay"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        descriptor = os.open(path, flags)
    except OSError as error:
        what = (
            "it is a symbolic link or no directory" if error.errno in (errno.ELOOP, errno.ENOTDIR) else error.strerror
        )
        raise ConfigError(f"cannot be used: {what}", where=where, mend=mend) from None
    about = os.fstat(descriptor)
    if about.st_uid != os.geteuid():
        os.close(descriptor)
        raise ConfigError(f"it belongs to user {about.st_uid}, not to us", where=where, mend=mend)
    if about.st_mode & 0o077:
        os.close(descriptor)
        raise ConfigError("others than its owner may use it", where=where, mend=f"chmod 700 {path}")
    return descriptor


def _open_file(directory: int, name: str, flags: int) -> int:
    descriptor = os.open(name, _FILE | flags, 0o600, dir_fd=directory)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_nlink > 1:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a plain file of ours")
    return descriptor


def _open_lock(path: Path, directory: int) -> int:
    try:
        return _open_file(directory, LOCK, os.O_CREAT)
    except OSError as error:
        os.close(directory)
        what = f"cannot open the lock in it: {error.strerror}"
        raise ConfigError(what, where=f"--state-dir {path}", mend="remove that file, or name another place") from None


def _locked(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(path: Path, directory: int, lock_fd: int) -> bool:
    """Whether what we hold is what others find: who had the lock before us may have removed both."""
    try:
        there, lock = os.stat(path, follow_symlinks=False), os.stat(LOCK, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(directory)) and os.path.samestat(lock, os.fstat(lock_fd))


def _identity(pid: str) -> str:
    """The process and when it began, as its number may be given anew; nothing of one that is dead."""
    try:
        text = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError):
        return ""
    state, *rest = text.rpartition(")")[2].split()
    return "" if state in "ZX" else f"{int(pid)} {rest[18]}"
