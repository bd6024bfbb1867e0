"""The state directory: who may have it, what is opened in it, and what is never touched. Real files, real locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.runtime.errors import ConfigError, StateBusy
from relay.state_dir import StateDir

HOLDS = """
import os, sys
from pathlib import Path
from relay.state_dir import StateDir
taken = StateDir.take(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    os.read(0, 1)  # a worker that is about to end
    os._exit(0)
print(child, flush=True)
os.waitpid(child, 0)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher and a worker, which ends when the pipe to it is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    with process:
        yield process
        process.kill()


def end_worker(holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin is not None
    holder.stdin.close()


def test_it_is_made_for_its_owner_alone(path: Path) -> None:
    taken = StateDir.take(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "lock").stat().st_mode & 0o777 == 0o600
    taken.destroy(directory_too=True)
    assert not path.exists()


def test_a_living_launcher_is_named(path: Path, holder: subprocess.Popen[bytes]) -> None:
    with pytest.raises(StateBusy, match=rf"process {holder.pid}\b.*relay upgrade") as raised:
        StateDir.take(path)
    assert raised.value.exit_status == 75


def test_workers_of_a_dead_launcher_are_waited_for(path: Path, holder: subprocess.Popen[bytes]) -> None:
    """It is dead, though its parent has not asked for its status yet."""
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    waiter = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    )
    with waiter:
        assert waiter.stdout is not None
        os.set_blocking(waiter.stdout.fileno(), False)
        assert waiter.stdout.read() is None
        os.set_blocking(waiter.stdout.fileno(), True)
        end_worker(holder)
        assert waiter.stdout.readline()
        assert (path / "lock").read_text().split()[0] == str(waiter.pid)


def test_workers_that_do_not_end_are_no_reason_to_wait_for_ever(
    path: Path, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.state_dir._TRIES", 3)
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(StateBusy, match="workers do not end"):
        StateDir.take(path)
    end_worker(holder)


def test_a_lock_that_was_removed_meanwhile_is_not_enough(path: Path) -> None:
    """Who had it before removes the file while we wait for it: somebody else may have another file's lock then."""
    first = StateDir.take(path)
    os.unlink(path / "lock")
    second = StateDir.take(path)
    assert os.fstat(second.lock_fd).st_ino == (path / "lock").stat().st_ino
    first.close()


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o702])
def test_a_directory_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 700"):
        StateDir.take(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_of_another_user_is_refused(path: Path) -> None:
    path.mkdir(0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        StateDir.take(path)


def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="symbolic link"):
        StateDir.take(path)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_is_no_directory(path: Path) -> None:
    path.write_text("")
    with pytest.raises(ConfigError, match="no directory"):
        StateDir.take(path)


def test_a_place_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        StateDir.take(path / "deeper")


def make_link(file: Path, target: Path) -> None:
    file.symlink_to(target)


def make_second_name(file: Path, target: Path) -> None:
    os.link(target, file)


def make_fifo(file: Path, _target: Path) -> None:
    os.mkfifo(file)


@pytest.mark.parametrize("make", [make_link, make_second_name, make_fifo])
@pytest.mark.parametrize("name", ["lock", "state.json", "slot-0"])
def test_only_plain_files_of_ours_are_opened(path: Path, tmp_path: Path, name: str, make: object) -> None:
    """Nothing is written, and nobody waits for the other end of a FIFO."""
    assert callable(make)
    path.mkdir(0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    make(path / name, victim)
    if name == "lock":
        with pytest.raises(ConfigError, match="lock"):
            StateDir.take(path)
    else:
        taken = StateDir.take(path)
        with pytest.raises(OSError):  # noqa: PT011 (which one depends on the kind)
            taken.open_file(name)
        taken.destroy(directory_too=True)
        assert not path.exists()
    assert victim.read_text() == "precious"


def test_only_files_with_names_of_ours_are_removed(path: Path) -> None:
    path.mkdir(0o700)
    others = {"slot-notes", "state.json.bak", "notes", "slots"}
    for name in (*others, "slot-0", "slot-12.3", "state.json", "state.json.new", "control.sock"):
        (path / name).write_text("")
    StateDir.take(path).destroy(directory_too=True)
    assert {file.name for file in path.iterdir()} == others


def test_the_record_is_replaced_whole(path: Path) -> None:
    """Whoever has the old one open still reads it, whole."""
    taken = StateDir.take(path)
    assert taken.read_record() is None
    taken.write_record(b"the first, and longer")
    with (path / "state.json").open("rb") as old:
        (path / "state.json.new").write_text("left by one who was killed")
        taken.write_record(b"the second")
        assert old.read() == b"the first, and longer"
    assert taken.read_record() == b"the second"
    assert taken.names() == ["lock", "state.json"]
