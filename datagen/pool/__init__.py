"""Pools of profiles and personalities: seeds, growth, similarity, and what the pools cover."""
