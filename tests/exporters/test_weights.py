from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastft.errors import ExportError
from fastft.exporters.weights import SafetensorsFolder, TensorSpec, write_sharded


def test_what_is_written_reads_back_through_safetensors(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open

    tensors = {
        "odd": torch.tensor([1, 0, 1], dtype=torch.bool),
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.empty(0, 4),
    }
    types = {"odd": "BOOL", "half": "BF16", "scalar": "I64", "empty": "F32"}
    specs = {name: TensorSpec(tuple(value.shape), types[name]) for name, value in tensors.items()}
    write_sharded(tmp_path, specs, tensors.__getitem__)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(tensors)
        for name, value in tensors.items():
            assert torch.equal(file.get_tensor(name), value), name
    ours = SafetensorsFolder.model(tmp_path)
    assert all(torch.equal(ours.read(name), value) for name, value in tensors.items())


def test_shards_stay_below_their_size_and_are_indexed(tmp_path: Path) -> None:
    import torch

    specs = {f"t{number}": TensorSpec((100,), "F32") for number in range(7)}
    write_sharded(tmp_path, specs, lambda name: torch.full((100,), float(name[1:])), max_shard_bytes=1000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 2800}
    assert index["weight_map"]["t6"] == files[3]
    assert SafetensorsFolder.model(tmp_path).read("t5").tolist() == [5.0] * 100


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(ExportError, match=r"lacks model weights: model-1\.safetensors"):
        SafetensorsFolder.model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{x"])
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ExportError, match="no whole safetensors file"):
        SafetensorsFolder.model(tmp_path)


_FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": _FLOATS, "b": {**_FLOATS, "data_offsets": [4, 12]}}, "b lies in the bytes of a"),
        ({"a": {**_FLOATS, "data_offsets": [8, 0]}}, "lies in the bytes of none"),
        ({"a": {**_FLOATS, "data_offsets": [0, 10**18]}}, "ends inside the tensor a"),
        ({"a": {**_FLOATS, "data_offsets": [-8, 0]}}, "a.data_offsets.0"),
        ({"a": {**_FLOATS, "data_offsets": [0]}}, "a.data_offsets"),
        ({"a": {**_FLOATS, "shape": [-2]}}, "a.shape.0"),
        ({"a": {**_FLOATS, "shape": [3]}}, "does not fit its shape"),
        ({"a": {**_FLOATS, "dtype": "F3"}}, "of the type F3, which can't be read"),
        ({"a": [1]}, "can't be read: a"),
        ([1], "holds a list"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: object, words: str) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(ExportError) as caught:
        SafetensorsFolder.model(tmp_path)
    assert words in caught.value.message
    assert "model.safetensors" in caught.value.message


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**10])
def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path, length: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(ExportError, match=f"claims {length:,} bytes"):
        SafetensorsFolder.model(tmp_path)
