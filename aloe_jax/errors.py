"""The one exception that stands for a mistake a person can mend."""


class AloeError(Exception):
    """Bad input, a bad setting or a full disk, told in one line: what, where, and what to do.

    Commands print the message and exit with status 1; anything else is a defect and keeps its traceback.
    """
