"""Generates personas and preference conversations, and stores them as TFDS data sets."""
