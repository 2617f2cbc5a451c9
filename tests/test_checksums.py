import random
import zlib

from aloe_jax.checksums import combined, crc32_of


def test_of_parts_and_of_the_whole_it_is_the_same(tmp_path):
    draw = random.Random(0)
    for _ in range(200):
        parts = [draw.randbytes(draw.choice([0, 1, 2, 7, 64, 1000, 65_537])) for _ in range(draw.randrange(6))]
        whole = b"".join(parts)
        assert combined([(zlib.crc32(part), len(part)) for part in parts]) == zlib.crc32(whole)
        (tmp_path / "file").write_bytes(whole)
        assert crc32_of(tmp_path / "file") == zlib.crc32(whole)


def test_of_another_order_it_is_another():
    one, other = (zlib.crc32(b"one"), 3), (zlib.crc32(b"other"), 5)
    assert combined([one, other]) != combined([other, one])
