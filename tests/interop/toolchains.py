"""What the clients of tests/interop need, found or made; a test is skipped with the reason where it is missing.

What is downloaded or built stands in build/interop, outside git, by the ordinary clients of Go's module proxy and the
npm registry. System packages are only looked for.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "interop"
DOWNLOAD_S = 600.0

Command = list[str]


def _made(command: Command, where: Path, what: str) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        pytest.skip(f"{what}: {' '.join(command[:3])} failed: {' '.join(last)}")


@functools.cache
def pion() -> Command:
    go = shutil.which("go") or pytest.skip("Pion needs the Go toolchain")
    program = BUILD / "pion"
    BUILD.mkdir(parents=True, exist_ok=True)
    _made([go, "build", "-o", str(program), "."], HERE / "pion", "Pion")
    return [str(program)]


@functools.cache
def _node() -> tuple[str, Path]:
    """Modules are looked for beside the script, so the scripts are copied to where they are installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("werift and libdatachannel need Node.js and npm")
    folder = BUILD / "node"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (HERE / "node").iterdir():
        shutil.copy(path, folder)
    _made([npm, "ci", "--no-audit", "--no-fund"], folder, "Node.js clients")
    return node, folder


def werift() -> Command:
    node, folder = _node()
    return [node, str(folder / "werift.mjs")]


def libdatachannel() -> Command:
    node, folder = _node()
    return [node, str(folder / "libdatachannel.mjs")]


@functools.cache
def gstreamer() -> Command:
    """The Python that Debian's bindings are for, which need not be ours."""
    words = "import gi; [gi.require_version(each, '1.0') for each in ('Gst', 'GstSdp', 'GstWebRTC')]"
    words += "; from gi.repository import Gst; Gst.init(None)"
    words += "; assert all(map(Gst.ElementFactory.find, ('webrtcbin', 'nicesrc', 'opusenc')))"
    for python in ("/usr/bin/python3", sys.executable):
        if os.path.exists(python) and not subprocess.run([python, "-c", words], capture_output=True).returncode:
            return [python, str(HERE / "gstreamer" / "call.py")]
    packages = "gstreamer1.0-plugins-bad gstreamer1.0-plugins-good gstreamer1.0-nice python3-gi"
    pytest.skip(f"needs GStreamer: apt-get install {packages} gir1.2-gst-plugins-bad-1.0 gir1.2-gst-plugins-base-1.0")


def firefox() -> Command:
    if not any(map(shutil.which, ("firefox-esr", "firefox"))):
        pytest.skip("needs Firefox: apt-get install firefox-esr")
    return [sys.executable, "-m", "tests.interop.firefox.call"]


def ffmpeg() -> Command:
    import av

    if "whip" not in av.formats_available:
        pytest.skip(f"FFmpeg {av.ffmpeg_version_info} of this PyAV has no WHIP muxer (8.0 and newer have one)")
    return [sys.executable, str(HERE / "ffmpeg" / "call.py")]


CLIENTS: dict[str, Callable[[], Command]] = {
    each.__name__: each for each in (pion, libdatachannel, werift, gstreamer, firefox)
}
