"""MaxText's models behind the same interface as our own decoder. Only internals.py imports it, when one is used."""
