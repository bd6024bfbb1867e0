"""Nothing of this module is for Python; `media` is the door."""
