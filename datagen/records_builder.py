"""A TFDS builder whose examples are handed over in memory instead of downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from aloe_jax.errors import AloeError


class RecordsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes `records` (split -> examples, each with an `id`) in the order in which they are given.

    `provenance` is stored as the data set's metadata.
    """

    FEATURES: Mapping[str, Any]
    # Nothing is downloaded, so there are no checksums; TFDS would look for them through importlib_resources,
    # which it does not install.
    url_infos = None

    def __init__(
        self,
        *,
        records: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        provenance: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        self._records = records
        self._provenance = dict(provenance or {})
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(self.FEATURES),
            metadata=tfds.core.MetadataDict(self._provenance),
            disable_shuffling=True,  # `limit` then takes the first conversations of the plan
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Mapping[str, Any]]]]:
        if self._records is None:
            raise AloeError(
                f"{self.name}: is written from a journal; run `python -m datagen build --config FILE`, "
                "then pass data_dir=OUTPUT/tfds"
            )
        return {split: self._generate_examples(split) for split in self._records}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        assert self._records is not None
        yield from enumerate(self._records[split])
