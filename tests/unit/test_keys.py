"""Key files: what is read, what is refused and how, and that nothing of a key is ever said."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.runtime import keys
from relay.runtime.errors import ConfigError

A, B = "aa" * 32, "0B" * 32


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_key_mints_and_all_verify(tmp_path: Path) -> None:
    file = write(tmp_path / "k", f"# old and new\n\n 3:{A} # newest\n0 : {B}\n")
    loaded = keys.load(file)
    assert loaded.minting == 3
    assert loaded.by_id == {3: bytes.fromhex(A), 0: bytes.fromhex(B)}
    for key_id in (0, 3):
        token = loaded.keyring().mint(key_id, ("10.0.0.1", 5000))
        assert loaded.keyring().verify(token.encode())[0] == "verified"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no key in it"),
        ("# nothing\n", "no key in it"),
        (f"7:{A}\n", "no route key"),
        (f"0:{A[:-1]}\n", "no route key"),
        (f"0:{A}00\n", "no route key"),
        (f"{A}\n", "no route key"),
        ("0:" + "zz" * 32 + "\n", "no route key"),
        (f"0:{A}\n0:{B}\n", "twice"),
        ("0:ü\n", "no key file"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        keys.load(write(tmp_path / "k", text))
    assert str(tmp_path / "k") in str(caught.value)
    assert A[:-2] not in str(caught.value)


def test_the_line_of_an_error_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="k:3"):
        keys.load(write(tmp_path / "k", f"# one\n0:{A}\nnonsense\n"))


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o601, 0o777])
def test_a_file_for_everybody_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        keys.load(write(tmp_path / "k", f"0:{A}\n", mode))


def test_the_owners_group_may_read(tmp_path: Path) -> None:
    """As Kubernetes mounts secrets for a pod with fsGroup."""
    assert keys.load(write(tmp_path / "k", f"0:{A}\n", 0o640)).minting == 0


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="relay keys new"):
        keys.load(tmp_path / "absent")


def test_new_keys_differ_and_are_not_shown(tmp_path: Path) -> None:
    keys.create(tmp_path / "k", keys.new_route_key(5))
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    loaded = keys.load(tmp_path / "k")
    assert loaded.minting == 5
    assert loaded.by_id[5].hex() not in repr(loaded)
    assert keys.new_route_key(0) != keys.new_route_key(0)
    with pytest.raises(ConfigError, match="exists"):
        keys.create(tmp_path / "k", keys.new_route_key(0))
    assert keys.load(tmp_path / "k") == loaded


# ---- session key and auth key


def test_a_session_key_is_one_line(tmp_path: Path) -> None:
    assert keys.load_session_key(write(tmp_path / "k", f"# ours\n\n {B} # since spring\n")) == bytes.fromhex(B)
    keys.create(tmp_path / "new", keys.new_session_key())
    assert len(keys.load_session_key(tmp_path / "new")) == keys.SESSION_KEY_BYTES


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no key in it"),
        (f"0:{A}\n", "no session key"),
        (f"{A}0\n", "no session key"),
        (f"{A}\n{B}\n", "k:2: a second"),
    ],
)
def test_what_is_no_session_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        keys.load_session_key(write(tmp_path / "k", text))
    assert A[:-2] not in str(caught.value)
    assert "transceiver keys new" in str(caught.value) or "remove" in str(caught.value)


def test_an_auth_key_is_one_line(tmp_path: Path) -> None:
    assert keys.load_auth_key(write(tmp_path / "k", "# clients\nsk-Some_key.0123456=\n")) == "sk-Some_key.0123456="
    assert keys.load_auth_key(write(tmp_path / "new", keys.new_session_key()))
    with pytest.raises(ConfigError, match="k:2: a second key"):
        keys.load_auth_key(write(tmp_path / "k", f"{A}\n{B}\n"))


@pytest.mark.parametrize(
    "key", ["tiny_key", "a" * 513, "with a blank in it, long", "colons:are:not:of:a:token", "ends=in=the=middle"]
)
def test_what_is_no_auth_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="k:1: this is no auth key") as caught:
        keys.load_auth_key(write(tmp_path / "k", f"{key}\n"))
    assert key not in str(caught.value)


def test_the_same_file_rules_for_all(tmp_path: Path) -> None:
    file = write(tmp_path / "k", f"{A}\n", 0o604)
    for load in (keys.load_session_key, keys.load_auth_key):
        with pytest.raises(ConfigError, match="chmod 600"):
            load(file)
        with pytest.raises(ConfigError, match="transceiver keys new"):
            load(tmp_path / "absent")


# --- the file of a running program ---


def rewrite(path: Path, text: str) -> None:
    """As an editor or a secrets manager does it: another file in its place."""
    other = write(path.with_suffix(".new"), text)
    other.rename(path)


def test_a_changed_file_is_taken_at_the_second_look(tmp_path: Path) -> None:
    path = write(tmp_path / "k", f"0:{A}\n")
    file = keys.RouteKeyFile(path)
    assert file.look() is None
    rewrite(path, f"1:{B}\n0:{A}\n")
    assert file.look() is None  # somebody may still be writing
    found = file.look()
    assert found is not None
    assert (found.minting, sorted(found.by_id)) == (1, [0, 1])
    assert file.look() is None


def test_a_file_that_is_being_written_is_let_be(tmp_path: Path) -> None:
    path = write(tmp_path / "k", f"0:{A}\n1:{B}\n")
    file = keys.RouteKeyFile(path)
    for written in (f"0:{A}\n", f"0:{A}\n2:{B[:10]}", f"0:{A}\n2:{B}\n"):
        rewrite(path, written)
        assert file.look() is None
    found = file.look()
    assert found is not None
    assert sorted(found.by_id) == [0, 2]


def test_who_asks_gets_the_keys_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "k", f"0:{A}\n")
    file = keys.RouteKeyFile(path)
    assert file.look(asked=True) is not None
    rewrite(path, f"1:{B}\n")
    found = file.look(asked=True)
    assert found is not None
    assert found.minting == 1
    assert file.look() is None


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [("", 0o600, "no key in it"), (f"9:{A}\n", 0o600, "no route key"), (f"0:{A}\n", 0o644, "chmod 600")],
)
def test_a_bad_file_is_said_once(tmp_path: Path, text: str, mode: int, says: str) -> None:
    path = write(tmp_path / "k", f"0:{A}\n")
    file = keys.RouteKeyFile(path)
    write(path, text, mode)
    assert file.look() is None
    with pytest.raises(ConfigError, match=says):
        file.look()
    assert file.look() is None
    path.unlink()
    assert file.look() is None
    with pytest.raises(ConfigError, match="cannot read"):
        file.look()
    rewrite(path, f"1:{B}\n")
    assert file.look() is None
    assert file.look() is not None
