"""Attention under the interval mask, one module per kernel with its own backward pass."""
