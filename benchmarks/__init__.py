"""Benchmarks of the relay: programs in C that play its surroundings, and runners that compare. See README.md."""
