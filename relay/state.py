"""What of a relay outlives its processes: the slots' memory, as files of a state directory, and the record of them.

A start takes the directory's lock and reads the record. If everything it names is whole and of this relay, the memory
is taken on: file i of it for worker i, and what no worker has a place for, since there are fewer of them or their
tables have another size now, as an orphan, out of which the workers take the flows that still have packets. If
anything is not, it is said why, all of it is removed, and the relay starts without.

Nothing of the old state is touched before the new record is written, so that a start which fails, or is killed,
leaves the old state for the next one. The record names the files; others are of a start that did not come so far.

`slots` opens what else a worker needs; the directory itself, its lock and its dangers are `state_dir`'s affair.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import json
import logging
import mmap
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from _fastpath import salvage
from _fastpath.slot import CHECKSUM, LAYOUT, MOST_FLOWS, SECRET_BYTES, Slot, SlotError, slot_bytes
from relay import __version__
from relay.runtime import watch
from relay.runtime.config import Address, Network
from relay.runtime.errors import ConfigError
from relay.runtime.log import event
from relay.runtime.memory import Memory, nameless, refuse_if_too_large, reserve
from relay.settings import Settings
from relay.state_dir import RECORD, StateDir
from relay.state_record import FORMAT, Record, Refused, clock, inode

log = logging.getLogger("ufrag.relay.state")

NONE, AUTO = "none", "auto"
ORPHANS_MOST = 64
_SHARED_MEMORY = Path("/dev/shm")
_SPARE_BYTES = 64 << 10  # for the record, twice, and whatever the file system itself takes


@dataclass(frozen=True)
class Kept:
    """A slot's memory; `file` is empty if it has none. An orphan's descriptor is closed (-1)."""

    file: str
    memory: Memory
    slot: Slot


def place(settings: Settings) -> Path | None:
    return place_of(settings.state_dir, settings.listen)


def place_of(state_dir: str, listen: Sequence[Address]) -> Path | None:
    """Where the state of such a relay is; by default a directory that no other relay can have: of this user, network
    and set of addresses, since two of those exclude each other anyway."""
    if state_dir == NONE:
        return None
    if state_dir != AUTO:
        return Path(state_dir).absolute()
    names = sorted(map(str, listen))
    at = names[0] if len(names) == 1 else hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
    return _SHARED_MEMORY / f"ufrag-relay-{os.geteuid()}-{inode('/proc/self/ns/net')}-{at}"


def bytes_needed(settings: Settings) -> int:
    """What a start without old state takes there."""
    return settings.plan.workers * slot_bytes(settings.max_flows) + _SPARE_BYTES


def directories() -> list[Path]:
    """Of relays in this network, by the name that is the default: this user's, or anybody's if we are root."""
    user = str(os.geteuid()) if os.geteuid() else "*"
    return sorted(_SHARED_MEMORY.glob(f"ufrag-relay-{user}-{inode('/proc/self/ns/net')}-*"))


class State:
    """The state of one relay, as its launcher has it. `slots` and `orphans` are complete once `allocate` was called."""

    def __init__(self, settings: Settings, directory: StateDir | None) -> None:
        self._settings = settings
        self.directory = directory
        self.listen: Sequence[Address] = settings.listen
        self.ports: list[int] = []  # that the internal sockets had before
        self.slots: list[Kept] = []
        self.orphans: list[Kept] = []
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._made: list[str] = []
        self._saved = False

    @classmethod
    def take(cls, settings: Settings) -> State:
        """The directory, its lock, and what of the old state is worth it."""
        path = place(settings)
        if path is None:
            return cls(settings, None)
        state = cls(settings, StateDir.take(path))
        state._adopt()
        return state

    # ---- what was there

    def _adopt(self) -> None:
        assert self.directory is not None
        found: list[Kept] = []
        try:
            text = self.directory.read_record()
            if text is None:
                if any(name.startswith("slot-") for name in self.directory.names()):
                    raise Refused("a start did not come to its end")
                return
            record = Record.read(text)
            self._check(record)
            for name in [*record.slots, *record.orphans]:
                found.append(self._open(name))
            self._take_on(record, found)
        except (Refused, OSError) as reason:
            for kept in found:
                os.close(kept.memory.fd)
            self.slots, self.ports = [], []
            self.directory.clear()
            event(log, logging.WARNING, "state refused", why=str(reason), directory=str(self.directory.path))

    def _check(self, record: Record) -> None:
        settings = self._settings
        if (record.layout, record.checksum) != (LAYOUT, f"{CHECKSUM:016x}"):
            raise Refused(f"version {record.version} lays its memory out differently")
        if record.clock != clock():
            raise Refused("the machine was started anew since")
        if sorted(record.listen) != sorted(map(str, settings.listen)):
            raise Refused(f"it is of a relay that listens at {', '.join(record.listen)}")
        beyond = [name for name in record.backends if not _inside(name, settings.backends)]
        if beyond:
            raise Refused(f"--backends has {', '.join(beyond)} no more, where flows of it may lead")
        if len(set(record.slots + record.orphans)) != len(record.slots + record.orphans) or not record.slots:
            raise Refused(f"{RECORD} is torn")

    def _open(self, name: str) -> Kept:
        """Raises Refused, or an OSError."""
        assert self.directory is not None
        if name not in self.directory.names():
            raise Refused(f"{name} is not there")
        try:
            descriptor = self.directory.open_file(name)
        except OSError as error:
            raise Refused(f"{name}: {error.strerror}") from None
        length = os.fstat(descriptor).st_size
        try:
            if not mmap.PAGESIZE <= length <= slot_bytes(MOST_FLOWS):
                raise SlotError("no slot has that size")
            memory = Memory(descriptor, reserve(descriptor, length))
            slot = Slot.open(memory.map)
            if wrong := salvage.unsound(slot):
                raise SlotError(wrong)
        except (OSError, SlotError) as error:
            os.close(descriptor)
            raise Refused(f"{name}: {error}") from None
        return Kept(name, memory, slot)

    def _take_on(self, record: Record, found: list[Kept]) -> None:
        """Nothing in it is written yet: we may still fail to start."""
        if len({kept.slot.secret for kept in found}) != 1:
            raise Refused("its slots are of different relays")
        age_s = min(watch.age_s(kept.slot.heart) for kept in found)
        if age_s > self._settings.flow_timeout_s:
            raise Refused(f"nobody has written it for {age_s:.0f} s, no flow can be left")
        self._secret = found[0].slot.secret
        self._order(record)
        self._deal_out(record, found)
        flows = sum(sum(kept.slot.flows().values()) for kept in found)
        event(log, logging.INFO, "state adopted", flows=flows, slots=len(self.slots), orphans=len(self.orphans),
              age_s=round(age_s, 3), version=record.version)  # fmt: skip

    def _deal_out(self, record: Record, found: list[Kept]) -> None:
        """Those of workers that are again, in the same shape, keep their place."""
        same = (record.max_flows, record.family) == (self._settings.max_flows, self._settings.internal.family)
        again = min(len(record.slots), self._settings.plan.workers) if same else 0
        if any(kept.slot.max_flows != record.max_flows for kept in found[: len(record.slots)]):
            raise Refused("its slots have another size")
        self.slots = found[:again]
        for kept in found[again:][:ORPHANS_MOST]:
            self._keep_orphan(kept)

    def inherit(self, memory: Sequence[Memory]) -> None:
        """What a relay that runs gives us: all of it goes on as it is, so it must be of the same shape. Raises Refused,
        or an OSError."""
        assert self.directory is not None
        record = Record.read(self.directory.read_record() or b"")
        self._check(record)
        same = (record.max_flows, record.family) == (self._settings.max_flows, self._settings.internal.family)
        if not same or len(memory) != len(record.slots):
            raise Refused(f"its tables have room for {record.max_flows} flows, and --max-flows is another")
        given = zip(record.slots, memory, strict=True)
        self.slots = [Kept(name, each, Slot.open(each.map)) for name, each in given]
        self._secret = self.slots[0].slot.secret
        self._order(record)
        for name in record.orphans:
            with contextlib.suppress(Refused):  # it may have gone in this moment
                self._keep_orphan(self._open(name))

    def _order(self, record: Record) -> None:
        by_name = {str(address): address for address in self._settings.listen}
        self.listen = [by_name[name] for name in record.listen]
        self.ports = record.internal

    def _keep_orphan(self, kept: Kept) -> None:
        os.close(kept.memory.fd)
        self.orphans.append(Kept(kept.file, Memory(-1, kept.memory.map), kept.slot))

    # ---- what is there now

    def allocate(self) -> list[Kept]:
        """The memory of each worker. All that was there is taken on in the moment in which `save` is called."""
        settings = self._settings
        missing = max(0, settings.plan.workers - len(self.slots))
        each = slot_bytes(settings.max_flows)
        refuse_if_too_large(each, missing, f"--max-flows {settings.max_flows}")
        self._refuse_if_no_room(each * missing)
        for _ in range(missing):
            self.slots.append(self._new(each))
        return self.slots

    def _new(self, length: int) -> Kept:
        index = len(self.slots)
        if self.directory is None:
            name, memory = "", nameless(length, "--max-flows")
        else:
            taken = {kept.file for kept in [*self.slots, *self.orphans]}
            name = next(name for name in _names(index) if name not in taken)
            memory = self._file(name, length)
        return Kept(name, memory, Slot.create(memory.map, self._settings.max_flows, self._secret))

    def _file(self, name: str, length: int) -> Memory:
        """Whatever has that name is of no record."""
        assert self.directory is not None
        self.directory.remove(name)
        self._made.append(name)
        try:
            descriptor = self.directory.open_file(name, os.O_CREAT | os.O_EXCL)
            return Memory(descriptor, reserve(descriptor, length))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._no_room(length) from None
            raise ConfigError(f"cannot reserve memory: {error.strerror}", where=self._where) from None

    def _refuse_if_no_room(self, needed: int) -> None:
        """Before the first page: a full /dev/shm would be everybody's trouble."""
        if self.directory and needed and self.directory.free_bytes() < needed + _SPARE_BYTES:
            raise self._no_room(needed)

    def _no_room(self, needed: int) -> ConfigError:
        assert self.directory is not None
        need, free = (needed + _SPARE_BYTES) / 2**20, self.directory.free_bytes() / 2**20
        mend = "make it larger (mount -o remount,size=SIZE; docker run --shm-size), lower --max-flows, or name another "
        mend += "directory; `--state-dir none` keeps the flows in memory of the processes alone"
        return ConfigError(f"{need:.1f} MiB are needed, {free:.1f} MiB are free there", where=self._where, mend=mend)

    @property
    def _where(self) -> str:
        return f"--state-dir {self.directory.path}" if self.directory else "--state-dir"

    def save(self, ports: Sequence[int]) -> None:
        """From here on the state is this launcher's. `ports` are the internal sockets'."""
        for kept in self.slots:
            salvage.renew(kept.slot)
        for kept in self.orphans:
            salvage.repair(kept.slot)
        self.ports = list(ports)
        if self.directory is not None:
            self._write(self.directory)

    def take_over(self, ports: Sequence[int]) -> None:
        """The same of a state that was inherited: nothing in it changes but whose it is."""
        assert self.directory is not None
        self.ports = list(ports)
        self._write(self.directory)
        self.directory.say_launcher()

    def retire(self, count: int) -> None:
        """The last workers are no more, and no flow is left in their slots."""
        left = len(self.slots) - count
        del self.slots[left:], self.ports[left:]
        if self.directory is not None:
            self._write(self.directory)

    def tidy(self) -> None:
        """Removes what a launcher has made here that did not come to its end."""
        if self.directory is not None:
            self._write(self.directory)

    def forget_orphans(self) -> None:
        """Their flows live in the workers' tables by now, or not at all."""
        event(log, logging.INFO, "orphans gone", slots=len(self.orphans))
        self.orphans.clear()
        if self.directory is not None:
            self._write(self.directory)

    def _write(self, directory: StateDir) -> None:
        """The record first, so that it never names a file that is not there."""
        try:
            directory.write_record(self._record())
        except OSError as error:
            raise ConfigError(f"cannot write {RECORD}: {error.strerror}", where=self._where) from None
        self._saved = True
        named = {kept.file for kept in [*self.slots, *self.orphans]}
        for name in directory.names():
            if name.startswith("slot-") and name not in named:
                directory.remove(name)

    def _record(self) -> bytes:
        settings = self._settings
        record = Record(
            format=FORMAT, version=__version__, layout=LAYOUT, checksum=f"{CHECKSUM:016x}", clock=clock(),
            launcher=os.getpid(), listen=[str(each) for each in self.listen],
            backends=[str(each) for each in settings.backends], family=int(settings.internal.family),
            max_flows=settings.max_flows, slots=[kept.file for kept in self.slots],
            orphans=[kept.file for kept in self.orphans], internal=self.ports,
        )  # fmt: skip
        return (json.dumps(asdict(record), indent=1) + "\n").encode()

    # ---- the end

    def leave(self, *, whole: bool = True) -> None:
        """At the end of the launcher. Flows that are left may be taken on by the next one, unless the memory is what
        ended the relay (`whole`)."""
        if self.directory is None:
            return
        flows = sum(sum(kept.slot.flows().values()) for kept in [*self.slots, *self.orphans])
        if flows and whole:
            event(log, logging.INFO, "state kept", flows=flows, directory=str(self.directory.path))
        else:
            self.directory.destroy(directory_too=self._settings.state_dir == AUTO)

    def abandon(self) -> None:
        """A start that failed: what it found stays for the next one, what it made goes."""
        if self.directory is None or self._saved:
            return
        for name in self._made:
            self.directory.remove(name)
        if self.directory.read_record() is None:
            self.directory.destroy(directory_too=self._settings.state_dir == AUTO)


def _names(index: int) -> Iterator[str]:
    """For the file of worker `index`: others may have the first ones."""
    yield f"slot-{index}"
    yield from (f"slot-{index}.{number}" for number in range(1, ORPHANS_MOST + 2))


def _inside(network: str, networks: Sequence[Network]) -> bool:
    try:
        inner = ipaddress.ip_network(network)
    except ValueError:
        return False
    return any(inner.version == each.version and inner.subnet_of(each) for each in networks)  # type: ignore[arg-type]
