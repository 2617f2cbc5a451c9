"""A TFDS builder whose examples are handed over in memory instead of downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tensorflow_datasets as tfds

from aloe_jax.errors import AloeError

# Number and fields of every example.
Examples = Iterator[tuple[int, Mapping[str, object]]]


class RecordsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes `records` (split -> examples, each with an `id`) in the order in which they are given.

    `provenance` is stored as the data set's metadata.
    """

    FEATURES: Mapping[str, object]
    # Nothing is downloaded, so there are no checksums; TFDS would look for them through importlib_resources,
    # which it does not install.
    url_infos = None

    def __init__(
        self,
        *,
        records: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
        provenance: Mapping[str, object] | None = None,
        **kwargs: object,
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

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        if self._records is None:
            raise AloeError(
                f"{self.name}: is written from a journal; run `python -m datagen build --config FILE`, "
                "then pass data_dir=OUTPUT/tfds"
            )
        return {split: self._generate_examples(split) for split in self._records}

    def _generate_examples(self, split: str) -> Examples:
        assert self._records is not None
        yield from enumerate(self._records[split])
