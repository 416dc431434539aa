import json
import time

import pytest
import torch
from safetensors.torch import save_file
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.safetensors_header import read_header


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4).half(), "empty": torch.zeros(0)}
    save_file(tensors, path, metadata={"who": "me"})
    return path


def write(path, table, body=b"", length=None):
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + body)
    return path


def entry(start, stop, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_names_shapes_types_and_metadata_are_read(good):
    header = read_header(good)

    assert {n: (e.dtype, e.shape) for n, e in header.entries.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F16", (4,)),
        "empty": ("F32", (0,)),
    }
    assert header.metadata == {"who": "me"}
    place = header.entries["a"]
    raw = good.read_bytes()[place.start : place.stop]
    assert torch.frombuffer(bytearray(raw), dtype=torch.float32).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_truncated_files_are_refused(good, keep):
    good.write_bytes(good.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"safetensors file|truncated"):
        read_header(good)


@pytest.mark.parametrize(
    ("table", "body", "complaint"),
    [
        ({"a": entry(0, 4), "b": entry(0, 4)}, b"1234", "overlaps"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, b"1234" * 3, "gap"),
        ({"a": entry(0, 4)}, b"1234" * 2, "accounts for"),
        ({"a": entry(0, 400, (100,))}, b"1234", "truncated"),
        ({"a": entry(0, 4, (2,))}, b"1234", "damaged header at 'a'"),
        ({"a": entry(-4, 4, (2,))}, b"1234", "damaged header at 'a'"),
        ({"a": entry(0, 4, (1,), "EVIL")}, b"1234", "damaged header at 'a'"),
        ({"a": [1]}, b"", "damaged header at 'a'"),
        ({"a": entry(0, 4, (True,))}, b"1234", "damaged header at 'a'"),
        ({"__metadata__": {"x": 1}}, b"", "metadata"),
        ([], b"", "no table"),
        (b"{not json", b"", "JSON"),
        (b"[" * 200_000, b"", "JSON"),
        (b"\xff\xfe\x00", b"", "JSON"),
    ],
)
def test_malicious_headers_are_refused_in_one_sentence(tmp_path, table, body, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        read_header(write(tmp_path / "bad.safetensors", table, body))
    assert str(caught.value).startswith("bad.safetensors ")
    assert "\n" not in str(caught.value)


def test_an_eight_gigabyte_header_is_refused_at_once(tmp_path):
    path = write(tmp_path / "huge.safetensors", b"{}", length=8 * 2**30)
    with path.open("r+b") as file:
        file.truncate(9 * 2**30)  # sparse: takes no disk
    started = time.monotonic()
    with pytest.raises(InputError, match="claims 8589934592"):
        read_header(path)
    assert time.monotonic() - started < 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.safetensors: there is no such file"):
        read_header(tmp_path / "nothing.safetensors")
