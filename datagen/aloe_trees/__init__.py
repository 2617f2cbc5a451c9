"""TFDS data set `aloe_trees`."""
