"""What both programs need around their own work: processes, configuration, logs, CPUs, admin port, metrics.

Rules of this package:
  1. It knows no packets, no Redis and no meaning of any socket; a program hands it names, callbacks and numbers.
  2. It imports nothing of `relay` outside itself, nothing of `transceiver`, and of `_fastpath` only formats (`wire`).
  3. Only `launcher` and `watch` read a clock; everywhere else time is an argument, or the event loop's own business.
  4. The launcher's process has one thread, so no import may start another; `watch.Cold` is for children.
"""
