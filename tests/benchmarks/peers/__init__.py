"""Our training against other trainers, each in a process and an environment of its own.

What the modules of the peers import (task, worker) needs nothing beyond Python 3.11's standard library.
"""
