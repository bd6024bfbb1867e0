"""Shared memory, taken by the launcher before it forks: all of it at the start, or none.

The programs lay it out (`_fastpath.slot`, `_fastpath.media_slot`); here it is only bytes. `option` is what made them
so many, for the message.
"""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

import psutil

from relay.runtime.errors import ConfigError


class Memory(NamedTuple):
    """Mapped, and by a descriptor that another process could map it by."""

    fd: int
    map: mmap.mmap


def refuse_if_too_large(each: int, workers: int, option: str) -> None:
    """Before the first page is taken: reserving more than there is would call the kernel's out-of-memory killer on
    somebody."""
    needed, available = each * workers, psutil.virtual_memory().available
    if needed > available:
        what = f"{workers} workers need {needed / 2**20:.0f} MiB, {available / 2**20:.0f} MiB are available"
        raise ConfigError(what, where=option, mend="lower it, or take fewer workers")


def allocate(length: int, option: str) -> mmap.mmap:
    """Memory that goes with the processes which have it mapped."""
    memory = nameless(length, option)
    os.close(memory.fd)
    return memory.map


def nameless(length: int, option: str) -> Memory:
    """The same with its descriptor, which the caller closes."""
    descriptor = os.memfd_create("ufrag-slot", os.MFD_CLOEXEC)
    try:
        return Memory(descriptor, reserve(descriptor, length))
    except OSError as error:
        os.close(descriptor)
        what = f"cannot reserve {length / 2**20:.1f} MiB of shared memory: {error.strerror}"
        raise ConfigError(what, where=option, mend="lower it, or give the process more memory") from None


def mapped_again(descriptor: int) -> Memory:
    """What another process has reserved and gives to us."""
    length = os.fstat(descriptor).st_size
    return Memory(descriptor, mmap.mmap(descriptor, length, mmap.MAP_SHARED | mmap.MAP_POPULATE))


def reserve(descriptor: int, length: int) -> mmap.mmap:
    """The file's memory, all of it there: reserved now and not at first touch, which would kill with SIGBUS in the
    middle of a call."""
    os.posix_fallocate(descriptor, 0, length)
    return mmap.mmap(descriptor, length, mmap.MAP_SHARED | mmap.MAP_POPULATE)
