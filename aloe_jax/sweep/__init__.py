"""The same trainings with several seeds, and with variants of their settings, evaluated together."""
