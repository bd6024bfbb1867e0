DRAIN: int
DRAIN_PUSH: int

class Steered:
    draining: int
    stopping: bool
    pid: int
    restarts: int
    reloads: int
    heart: int
    busy_ratio: float
