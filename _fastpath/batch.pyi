"""Nothing of this module is for Python; `slot` shows what it holds."""
