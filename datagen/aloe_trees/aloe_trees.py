"""The TFDS builder of the conversation trees."""

from __future__ import annotations

import tensorflow_datasets as tfds

from datagen.records_builder import RecordsBuilder

TEXT = tfds.features.Text()


class AloeTrees(RecordsBuilder):
    """Conversation trees in the splits `train` and `validation`, which share no profile.

    `hinted` is empty where the data does not record which reply was written with the hint.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 - TFDS asks for a plain class attribute
    FEATURES = {  # noqa: RUF012
        "id": TEXT,
        "persona": {"id": TEXT, "profile": TEXT, "personality": TEXT},
        "turns": tfds.features.Sequence(
            {
                "user": TEXT,
                "preferred": TEXT,
                "rejected": TEXT,
                "continued": TEXT,
                "hinted": TEXT,
                "inferred_profile": TEXT,
                "inferred_personality": TEXT,
            }
        ),
    }
