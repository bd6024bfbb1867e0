"""Python's view of it; slots are classes with this base, and point `steering` into their memory."""

from _fastpath.atomics cimport load32, load64, store32, store64


DRAIN = DRAINING
DRAIN_PUSH = DRAINING_PUSH


cdef class Steered:
    @property
    def draining(self) -> int:
        """0, or how it drains: see `Steering`."""
        return load32(&self.steering.draining)

    @draining.setter
    def draining(self, value) -> None:
        """A bool will do."""
        store32(&self.steering.draining, value)

    @property
    def stopping(self) -> bool:
        return load32(&self.steering.stopping) != 0

    @stopping.setter
    def stopping(self, value: bool) -> None:
        store32(&self.steering.stopping, value)

    @property
    def pid(self) -> int:
        return load32(&self.steering.pid)

    @pid.setter
    def pid(self, value: int) -> None:
        store32(&self.steering.pid, value)

    @property
    def restarts(self) -> int:
        return load32(&self.steering.restarts)

    @restarts.setter
    def restarts(self, value: int) -> None:
        store32(&self.steering.restarts, value)

    @property
    def reloads(self) -> int:
        return load32(&self.steering.reloads)

    @reloads.setter
    def reloads(self, value: int) -> None:
        store32(&self.steering.reloads, value)

    @property
    def heart(self) -> int:
        """Tick of the last round of the hot thread."""
        return load32(&self.steering.heart)

    @heart.setter
    def heart(self, tick: int) -> None:
        store32(&self.steering.heart, tick & 0xffffffff)

    @property
    def busy_ratio(self) -> float:
        return load64(&self.steering.busy_ppm) / 1e6

    @busy_ratio.setter
    def busy_ratio(self, value: float) -> None:
        store64(&self.steering.busy_ppm, <uint64_t>(value * 1e6))
