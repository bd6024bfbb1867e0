"""Errors say what, where and how to mend it; a logged event is one line, in both forms, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from relay.runtime import errors, log

logger = logging.getLogger("ufrag.test")


@pytest.fixture(autouse=True)
def _restore_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def start(format: log.Format, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    log.setup(format, "relay", level, stream)
    return stream


@pytest.mark.parametrize(
    ("fault", "status"),
    [(errors.ConfigError, 78), (errors.PortBusy, 75), (errors.CrashLoop, 70), (errors.RuntimeFault, 1)],
)
def test_fault_carries_its_exit_status(fault: type[errors.RuntimeFault], status: int) -> None:
    assert fault("x").exit_status == status


def test_fault_text_says_what_where_and_how_to_mend() -> None:
    assert str(errors.PortBusy("in use", where="tcp 127.0.0.1:1", mend="choose another")) == (
        "tcp 127.0.0.1:1: in use; choose another"
    )
    assert str(errors.RuntimeFault("bad")) == "bad"


def test_text_line() -> None:
    stream = start("text")
    log.event(logger, logging.INFO, "child started", child="worker 0", pid=7)
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO relay: child started child="worker 0" pid=7\n', stream.getvalue()
    )


@pytest.mark.parametrize("hostile", ["a\nINFO relay: forged", "a\r\x1b[2J", 'q"=', "", "\u2028", "\ud800"])
@pytest.mark.parametrize("format", ["text", "json"])
def test_hostile_text_stays_in_its_line(format: log.Format, hostile: str) -> None:
    stream = start(format)
    log.event(logger, logging.INFO, "from a peer " + hostile, value=hostile)
    written = stream.getvalue()
    assert written.endswith("\n")
    assert len(written[:-1].splitlines()) == 1
    assert "\x1b" not in written


def test_json_line_keeps_its_own_names() -> None:
    stream = start("json")
    log.event(logger, logging.WARNING, "child ended", pid=7, level="forged", how=errors.ConfigError("x"))
    line = json.loads(stream.getvalue())
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning",
        "program": "relay",
        "logger": "ufrag.test",
        "message": "child ended",
        "pid": 7,
        "how": "x",
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_traceback_is_kept(format: log.Format) -> None:
    stream = start(format)
    try:
        raise KeyError("lost")
    except KeyError:
        logger.exception("failed")
    assert "KeyError: 'lost'" in stream.getvalue()


def test_level_and_second_setup() -> None:
    first = start("text", "warning")
    log.event(logger, logging.INFO, "unseen")
    second = start("text", "debug")
    log.event(logger, logging.DEBUG, "seen")
    assert first.getvalue() == ""
    assert "seen" in second.getvalue()


def test_lost_stream_is_survived() -> None:
    stream = start("text")
    stream.close()
    log.event(logger, logging.INFO, "nobody reads this")


def test_bad_level_and_format_are_configuration_errors() -> None:
    with pytest.raises(errors.ConfigError, match="loud"):
        log.setup("text", "relay", "loud")
    with pytest.raises(errors.ConfigError, match="xml"):
        log.setup("xml", "relay")  # type: ignore[arg-type]
