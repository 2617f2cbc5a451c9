"""Train language models to align with one person over a conversation."""

__version__ = "0.1.0"
