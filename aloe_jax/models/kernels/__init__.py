"""Attention under the interval mask, one file a kernel, each with its own backward pass."""
