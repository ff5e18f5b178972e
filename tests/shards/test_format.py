import os
import struct

import numpy as np
import pytest

from common.errors import InputError
from common.shards.format import ShardWriter, check_vocabulary, read_shard, token_dtype
from common.text.tokenization import Vocabulary

SMALL = np.dtype("<u2")
LARGE = np.dtype("<u4")


def header(magic=20240520, version=1, count=3, order="<"):
    return struct.pack(f"{order}256i", magic, version, count, *[0] * 253)


@pytest.mark.parametrize(
    ("dtype", "magic", "version", "code", "highest"),
    [(SMALL, 20240520, 1, "H", 2**16 - 1), (LARGE, 20240801, 7, "I", 2**32 - 1)],
)
def test_written_bytes_are_llm_c_s(tmp_path, dtype, magic, version, code, highest):
    path = tmp_path / "new" / "x.bin"
    writer = ShardWriter(path, dtype)
    writer.append([5, 258, 0])
    writer.append([highest])
    writer.close()
    assert path.read_bytes() == header(magic, version, 4) + struct.pack(f"<4{code}", 5, 258, 0, highest)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("magic", "version", "code", "dtype"), [(20240520, 1, "H", SMALL), (20240801, 7, "I", LARGE)])
def test_hand_made_bytes_are_read(tmp_path, magic, version, code, dtype):
    path = tmp_path / "x.bin"
    path.write_bytes(header(magic, version, 3) + struct.pack(f"<3{code}", 50256, 1, 65535))
    tokens, _ = read_shard(path)
    assert tokens.tolist() == [50256, 1, 65535]
    assert tokens.dtype == dtype


def test_fields_after_the_third_are_ignored_as_llm_c_does(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(struct.pack("<256i", 20240520, 1, 1, *range(253)) + b"\x07\x00")
    assert read_shard(path)[0].tolist() == [7]


THREE = struct.pack("<3H", 1, 2, 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (header()[:-1], "1023 bytes"),
        (header(magic=20240521) + THREE, "20240521"),
        (header(version=2) + THREE, "version 2"),
        (header(20240520, 7) + THREE, "version 7"),
        (header(20240801, 1) + struct.pack("<3I", 1, 2, 3), "version 1"),
        (header(20240801, 7) + THREE, "promises 3"),
        (header(order=">") + THREE, "not a token shard"),
        (header(count=-3) + THREE, "promises -3"),
        (header(count=-512), "promises -512"),
        (header(count=4) + THREE, "promises 4"),
        (header(count=2) + THREE, "promises 2"),
        (header() + THREE[:-1], "1029"),
        (header() + THREE + b"\n", "1031"),
        (header(count=0) + b"\0", "1025"),
    ],
)
def test_a_damaged_shard_is_refused_by_name(tmp_path, content, says):
    path = tmp_path / "bad.bin"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_shard(path)
    assert str(path) in str(raised.value)
    assert says in str(raised.value)


def test_what_is_no_file_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "pipe.bin")  # reading it would wait for ever
    for path in (tmp_path, tmp_path / "none.bin", tmp_path / "pipe.bin"):
        with pytest.raises(InputError, match=str(path)):
            read_shard(path)


def test_nothing_has_the_final_name_before_close(tmp_path):
    path = tmp_path / "x.bin"
    writer = ShardWriter(path, SMALL)
    writer.append([1] * 100_000)
    assert not list(tmp_path.glob("*.bin"))
    writer.close()
    assert list(tmp_path.glob("*.bin")) == [path]


def test_an_unfinished_shard_leaves_the_finished_one_alone(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(header() + THREE)
    ShardWriter(path, SMALL).append([9])
    assert read_shard(path)[0].tolist() == [1, 2, 3]


def test_a_discarded_shard_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path / "x.bin", SMALL)
    writer.append([9])
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_an_empty_shard_is_a_header(tmp_path):
    path = tmp_path / "x.bin"
    ShardWriter(path, SMALL).close()
    assert path.read_bytes() == header(count=0)
    tokens, _ = read_shard(path)
    assert tokens.shape == (0,)
    check_vocabulary(path, tokens, Vocabulary(1, "a model"))


def test_uint16_holds_vocabularies_up_to_65536():
    assert token_dtype(65536) == SMALL
    assert token_dtype(65537) == LARGE


def test_a_token_beyond_the_vocabulary_is_named_with_its_offset(tmp_path):
    path = tmp_path / "x.bin"
    check_vocabulary(path, np.array([3, 9, 0], SMALL), Vocabulary(10, "a model"))
    with pytest.raises(InputError, match=r"x\.bin: offset 2: token id 10 "):
        check_vocabulary(path, np.array([3, 9, 10, 11], SMALL), Vocabulary(10, "a model"))


def test_offsets_beyond_the_first_block_count_from_the_shard_s_start(tmp_path):
    tokens = np.zeros(2**24 + 5, SMALL)
    tokens[2**24 + 3] = 10
    with pytest.raises(InputError, match=f"offset {2**24 + 3}: "):
        check_vocabulary(tmp_path / "x.bin", tokens, Vocabulary(10, "a model"))


@pytest.mark.parametrize("token_ids", [[65536], [5, -1], np.array([65536], np.uint32)], ids=str)
def test_an_id_that_does_not_fit_the_layout_is_not_written_as_another(tmp_path, token_ids):
    writer = ShardWriter(tmp_path / "x.bin", SMALL)
    with pytest.raises(ValueError, match="does not fit"):
        writer.append(token_ids)


def test_a_new_writer_has_nothing_on_disk_before_its_first_tokens(tmp_path):
    """A signal between the two would leave a file that nobody removes."""
    writer = ShardWriter(tmp_path / "a.bin", np.dtype("<u2"))
    assert not list(tmp_path.iterdir())
    writer.append([1])
    assert [path.name for path in tmp_path.iterdir()] == [".a.bin.tmp"]
    writer.discard()
    assert not list(tmp_path.iterdir())
