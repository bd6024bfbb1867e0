"""Nothing of this module is for Python; `slot` and `forward` are the doors."""
