"""Digests: a change of any byte of any covered file is noticed and named."""

import json

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
    with pytest.raises(AloeError, match=r"weights is not as it was written \(its CRC-32C differs\): restore it"):
        check(root, "restore it")


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
    "content", ["", "{}", "[]", "null", "{", '{"a": 1}', '{"a": {"bytes": "x", "crc32c": ""}}', "\xff"]
)
def test_a_damaged_list_of_digests_is_named(directory, content):
    (directory / DIGESTS).write_bytes(content.encode("latin-1"))
    assert damage(directory).startswith(str(directory / DIGESTS))


def test_a_list_that_names_files_outside_reads_none_of_them(directory):
    outside = {"../../etc/passwd": {"bytes": 1, "crc32c": ""}}
    (directory / DIGESTS).write_text(json.dumps(outside))
    assert "outside" in damage(directory)


def test_what_was_written_before_there_were_digests_is_not_refused(directory):
    (directory / DIGESTS).unlink()
    assert damage(directory) is None
