"""Digests: a change of any byte of any covered file is noticed and named."""

import hashlib
import json

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.errors import AloeError
from aloe_jax.storage.integrity import DIGESTS, check, damage, record


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_bytes(b"some content")
    (tmp_path / "below" / "b").write_bytes(bytes(range(256)))
    (tmp_path / "empty").write_bytes(b"")
    record(tmp_path)
    return tmp_path


def test_nothing_is_found_where_nothing_changed(directory):
    assert damage(directory) is None
    check(directory, "advice")


@given(where=st.integers(0, 255), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_and_its_file_named(tmp_path_factory, where, bit):
    root = tmp_path_factory.mktemp("flipped")
    content = bytearray(range(256))
    (root / "weights").write_bytes(content)
    record(root)
    content[where] ^= 1 << bit
    (root / "weights").write_bytes(content)
    with pytest.raises(AloeError, match=r"weights is not as it was written \(its checksum differs\): restore it"):
        check(root, "restore it")


@pytest.mark.parametrize("size", [100, 1 << 20, (1 << 20) - 4, (1 << 20) + 96, 3 << 20])
def test_files_that_end_with_their_own_crc_are_not_taken_for_each_other(tmp_path, size):
    """As OCDBT's manifests do, whose CRC-32C is the same for all of one length."""
    contents = []
    for name in ("one", "other"):
        content = name.encode().ljust(8) * (size // 8) + name[:1].encode()
        contents.append(content + google_crc32c.value(content).to_bytes(4, "little"))
        (tmp_path / name).write_bytes(contents[-1])
    assert google_crc32c.value(contents[0]) == google_crc32c.value(contents[1])
    record(tmp_path)
    (tmp_path / "one").write_bytes(contents[1])
    (tmp_path / "other").write_bytes(contents[0])
    assert "one is not as it was written" in damage(tmp_path)


@given(size=st.integers((1 << 20) - 3, (1 << 20) + 3) | st.just(5 << 19), where=st.integers(0, (5 << 19) - 1))
def test_any_byte_of_a_large_file_counts(tmp_path_factory, size, where):
    root = tmp_path_factory.mktemp("large")
    content = bytearray(size)
    (root / "weights").write_bytes(content)
    record(root)
    content[where % size] ^= 1
    (root / "weights").write_bytes(content)
    assert "weights is not as it was written" in damage(root)


@pytest.mark.parametrize("size", [100, 1 << 16, (1 << 16) + 1, 200_000, (1 << 20) + 96, 3 << 20])
def test_digests_whose_sha_took_in_the_last_mib_are_still_those_of_the_file(tmp_path, size):
    """As an earlier version wrote them: its runs are not called damaged, and no damage is missed."""
    content = bytearray(np.random.default_rng(size).bytes(size))
    (tmp_path / "weights").write_bytes(content)
    at = (size - 1) // (1 << 20) << 20
    before = google_crc32c.value(bytes(content[:at])).to_bytes(4, "big")
    known = hashlib.sha256(before + content[at:]).hexdigest()[:32]
    (tmp_path / DIGESTS).write_text(json.dumps({"weights": {"bytes": size, "checksum": known}}))
    assert damage(tmp_path) is None
    for where in (0, size // 2, size - 1):
        content[where] ^= 1
        (tmp_path / "weights").write_bytes(content)
        assert "weights is not as it was written" in damage(tmp_path)
        content[where] ^= 1


def test_cut_missing_and_longer_files_are_found(directory):
    (directory / "a").write_bytes(b"some conten")
    assert "a has 11 bytes, 12 were written" in damage(directory)
    (directory / "a").unlink()
    assert "a is missing" in damage(directory)
    assert damage(directory, lambda name: name.startswith("below")) is None
    (directory / "a").write_bytes(b"some content")
    (directory / "empty").write_bytes(b"x")
    assert "empty has 1 bytes, 0 were written" in damage(directory)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", "{", '{"a": 1}', '{"a": {"bytes": "x", "checksum": ""}}', "\xff"]
)
def test_a_damaged_list_of_digests_is_named(directory, content):
    (directory / DIGESTS).write_bytes(content.encode("latin-1"))
    assert damage(directory).startswith(str(directory / DIGESTS))


def test_a_list_that_names_files_outside_reads_none_of_them(directory):
    outside = {"../../etc/passwd": {"bytes": 1, "checksum": ""}}
    (directory / DIGESTS).write_text(json.dumps(outside))
    assert "outside" in damage(directory)


def test_what_was_written_before_there_were_digests_is_not_refused(directory):
    (directory / DIGESTS).unlink()
    assert damage(directory) is None
