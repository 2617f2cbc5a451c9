"""The TFDS builder of the conversation trees."""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from datagen.records_builder import RecordsBuilder

TEXT = tfds.features.Text()


class AloeTrees(RecordsBuilder):
    """Conversation trees in the splits `train` and `validation`, which share no profile.

    Fields that a turn need not have are empty, or -1 where they are numbers: `rejected` where there is one reply only,
    `hinted`, `shown_first`, `favoured_first` and `favoured_second` where they are not recorded, `after` and `follows`
    where a turn answers the continued reply of the turn before it.
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
                "shown_first": TEXT,
                "favoured_first": np.int32,
                "favoured_second": np.int32,
                "inferred_profile": TEXT,
                "inferred_personality": TEXT,
                "follows": np.int32,
                "after": TEXT,
            }
        ),
    }
