"""`python -m transceiver`: the same door as the console script `transceiver`."""

from _fastpath.commands import transceiver

if __name__ == "__main__":
    transceiver()
