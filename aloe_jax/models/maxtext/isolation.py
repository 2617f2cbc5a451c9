"""Importing and calling MaxText without its traces in the process: what it prints, logs, sets and replaces.

Put back after an import: environment variables (HF_DATASETS_DISABLE_DILL, MOSAIC_GPU_CUDA_ROOT, TF_CPP_MIN_LOG_LEVEL,
and DECOUPLE_GCLOUD, which is set for it), warning filters, levels and handlers of loggers, and qwix's `find_param`,
which maxtext.layers.quantizations replaces. Held back: what it prints, logs below errors, and warns of.

Not put back: about fifty absl flags that grain, pathwaysutils and tokamax define (we parse no flags), the
modules themselves, and a warning that a thread other than the caller's prints meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator

# Without it MaxText's storage helpers look for Google Cloud's packages and credentials.
ENVIRONMENT = {"DECOUPLE_GCLOUD": "TRUE"}
REPLACED = (("qwix._src.utils.flax_util", "find_param"),)  # functions of other packages that the import replaces


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """What is imported inside leaves environment, loggers, warning filters and other packages as they were."""
    environment = dict(os.environ)
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    levels = {logger: (logger.level, [*logger.handlers]) for logger in (logging.root, *loggers)}
    replaced = [(importlib.import_module(module), name) for module, name in REPLACED]
    kept = [(module, name, getattr(module, name)) for module, name in replaced]
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in environment})
    try:
        with silent():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
        for logger, (level, handlers) in levels.items():
            logger.setLevel(level)
            logger.handlers[:] = handlers
        for module, name, function in kept:
            setattr(module, name, function)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What is printed and logged below errors inside goes nowhere; errors are printed."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")  # what flax deprecates
            yield
    finally:
        logging.disable(before)
