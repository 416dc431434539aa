import json
import pickle

import pytest
import safetensors.torch
import torch
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.safetensors_file import read_safetensors, serialize

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "half": torch.tensor([[0.25]], dtype=torch.float16),
    "alpha": torch.tensor(8.0),
}
METADATA = {"z": 'quotes " and \\ and\nlines', "name": "ün/猫 \x7f", "empty": ""}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"".join(serialize(TENSORS, METADATA)))
    return file


def with_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_the_library_reads_what_is_written(path):
    read = safetensors.torch.load_file(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[key], tensor) for key, tensor in TENSORS.items())
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == METADATA


def test_what_is_written_is_read_back(path):
    tensors, metadata = read_safetensors(path)
    assert metadata == METADATA
    assert all(torch.equal(tensors[key], tensor) for key, tensor in TENSORS.items())
    assert all(tensors[key].dtype == tensor.dtype for key, tensor in TENSORS.items())


def test_what_the_library_writes_is_read(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "b.safetensors")
    tensors, metadata = read_safetensors(tmp_path / "b.safetensors")
    assert metadata == {}
    assert tensors.keys() == TENSORS.keys()


def test_order_of_metadata_does_not_change_the_bytes():
    assert serialize(TENSORS, METADATA) == serialize(TENSORS, dict(reversed(METADATA.items())))


def test_header_is_as_long_as_the_library_makes_it():
    header, content = serialize(TENSORS, METADATA)
    library = safetensors.torch.save(TENSORS, METADATA)
    assert len(header) + len(content) == len(library)
    assert library.endswith(content)


@pytest.mark.parametrize("kept", [0, 5, 7, 8, 20, 0.5, -1])
def test_file_cut_off_anywhere_is_called_cut_off(path, kept):
    content = path.read_bytes()
    length = int(len(content) * kept) if isinstance(kept, float) else kept
    path.write_bytes(content[:length])
    with pytest.raises(InputError, match=r"a\.safetensors is cut off"):
        read_safetensors(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_is_refused_and_not_opened(path, protocol):
    class Trap:
        def __reduce__(self):
            return path.with_name("sprung").touch, ()

    path.write_bytes(pickle.dumps(Trap(), protocol=protocol))
    with pytest.raises(InputError, match="pickle"):
        read_safetensors(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="pickle"):
        read_safetensors(path)
    assert not path.with_name("sprung").exists()


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"x" * 12, "b starts at byte 4, but must at 8"),
        ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, b"x" * 8, "starts at byte 0, but must at 8"),
        ({"a": entry([1], 4, 8)}, b"x" * 8, "a starts at byte 4"),
        ({"a": entry([3], 0, 8)}, b"x" * 8, "takes bytes 0 to 8"),
        ({"a": entry([2**62, 2**62], 0, 8)}, b"x" * 8, "takes bytes 0 to 8"),
        ({"a": entry([-2], 8, 0)}, b"x" * 8, "takes bytes 8 to 0"),
        ({"a": entry([True], 0, 4)}, b"x" * 4, "takes bytes"),
        ({"a": entry([2], 0, 8, dtype="PICKLE")}, b"x" * 8, "entry of a"),
        ({"a": {"shape": [1]}}, b"", "entry of a"),
        ({"a": None}, b"", "entry of a"),
        ({"a": entry([2], 0, 8)}, b"x" * 9, "1 bytes after the last tensor"),
        ({"a": entry([2], 0, 8)}, b"x" * 4, "cut off: 4 of 8 bytes"),
        ({"__metadata__": {"a": 1}}, b"", "metadata must be texts"),
        ({"__metadata__": []}, b"", "metadata must be texts"),
        (b"[1]", b"", "its header is a list"),
        (b"{nonsense", b"", "header cannot be read"),
        (b"[" * 100_000, b"", "header cannot be read"),
        (b"\xff\xfe{}", b"", "header cannot be read"),
    ],
)
def test_damaged_header_is_refused_with_the_reason(path, header, data, words):
    with pytest.raises(InputError, match=words):
        read_safetensors(with_header(path, header, data))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 200_000_000])
def test_huge_header_length_takes_no_memory(path, length):
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="announces a header"):
        read_safetensors(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.safetensors cannot be read: No such file"):
        read_safetensors(tmp_path / "no.safetensors")


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x10280, 0x4B50])
def test_a_header_whose_length_looks_like_a_pickle_is_read(path, length):
    """Its two lowest bytes are then those that a pickle or an archive begins with."""
    content = json.dumps({"a": entry([2], 0, 8)}).encode().ljust(length)
    path.write_bytes(len(content).to_bytes(8, "little") + content + b"\0" * 8)
    assert path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    assert torch.equal(read_safetensors(path)[0]["a"], torch.zeros(2))
