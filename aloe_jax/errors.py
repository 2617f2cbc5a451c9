"""The one exception for a mistake that a person can correct."""


class AloeError(Exception):
    """Bad input, a bad setting or a full disk, in one line: what, where, and what to do.

    Commands print the message and exit with status 1. What else a file, a disk or a server can raise they put into a
    line too (faults.py); anything else is a defect, whose traceback they keep in a file.
    """
