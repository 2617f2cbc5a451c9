"""TFDS data set `aloe_personas`."""
