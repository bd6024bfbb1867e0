"""Shared memory, taken by the launcher before it forks: all of it at the start, or none.

The programs lay it out (`_fastpath.slot`, `_fastpath.media_slot`); here it is only bytes. `option` is what made them
so many, for the message.
"""

from __future__ import annotations

import mmap
import os

import psutil

from relay.runtime.errors import ConfigError


def refuse_if_too_large(each: int, workers: int, option: str) -> None:
    """Before the first page is taken: reserving more than there is would call the kernel's out-of-memory killer on
    somebody."""
    needed, available = each * workers, psutil.virtual_memory().available
    if needed > available:
        what = f"{workers} workers need {needed / 2**20:.0f} MiB, {available / 2**20:.0f} MiB are available"
        raise ConfigError(what, where=option, mend="lower it, or take fewer workers")


def allocate(length: int, option: str) -> mmap.mmap:
    """Shared memory that is there: reserved now and not at first touch, which would kill with SIGBUS in the middle
    of a call."""
    descriptor = os.memfd_create("ufrag-slot", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, length)
        return mmap.mmap(descriptor, length, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError as error:
        what = f"cannot reserve {length / 2**20:.1f} MiB of shared memory: {error.strerror}"
        raise ConfigError(what, where=option, mend="lower it, or give the process more memory") from None
    finally:
        os.close(descriptor)
