"""A bucket that is not there, for gcsfs and TensorStore alike."""

import os
from collections.abc import Iterator

import pytest

from tests.gcs.server import Bucket

# The material of a tiny run.
from tests.training.conftest import material, settings, starting_model  # noqa: F401


@pytest.fixture(scope="session")
def store() -> Iterator[Bucket]:
    found = Bucket()
    # Both read these once, when they first connect.
    os.environ.update(
        STORAGE_EMULATOR_HOST=found.url,
        TENSORSTORE_GCS_HTTP_URL=found.url,
        GOOGLE_AUTH_TOKEN_FOR_TESTING="none",
        FSSPEC_GCS_TOKEN="anon",
        GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",  # as files.py has it
    )
    import gcsfs  # noqa: F401  reads the variables above

    yield found
    found.shutdown()


@pytest.fixture
def bucket(store: Bucket, tmp_path, monkeypatch) -> Iterator[Bucket]:
    """An empty bucket of any name, and an empty place for copies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store.objects.clear()
    store.writes.clear()
    store.refuse_after = None
    yield store
    assert store.unknown == []
