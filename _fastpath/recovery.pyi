"""Nothing of this module is for Python: it decides inside the loop."""
