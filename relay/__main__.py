"""`python -m relay`: the same door as the console script `relay`."""

from _fastpath.commands import relay

if __name__ == "__main__":
    relay()
