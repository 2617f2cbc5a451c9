"""The TFDS builder of the personas."""

from __future__ import annotations

import tensorflow_datasets as tfds

from datagen.records_builder import RecordsBuilder

TEXT = tfds.features.Text()


class AloePersonas(RecordsBuilder):
    """Personas in the splits `train` and `benchmark`, which share no profile and no personality."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 - TFDS asks for a plain class attribute
    FEATURES = {"id": TEXT, "profile": TEXT, "personality": TEXT, "profile_id": TEXT, "personality_id": TEXT}  # noqa: RUF012
