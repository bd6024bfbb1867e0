"""Nothing of this module is for Python; `forward` is the door."""
