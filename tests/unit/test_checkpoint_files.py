import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from full_disk import full_after
from wan_alpha.checkpoints import files
from wan_alpha.checkpoints.files import read_many, read_metadata, read_tensors, require_keys, require_shapes, sha256, write_tensors
from wan_alpha.errors import CheckpointError


class NotATensor:
    pass


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.pth"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    shared = torch.arange(6.0).view(2, 3)
    tensors = {"x": shared, "transposed": shared.T, "half": torch.ones(2, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "sub" / name, tensors, metadata={"step": "7"})
    found = read_tensors(tmp_path / "sub" / name)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) and found[key].dtype == tensors[key].dtype for key in tensors)
    assert os.listdir(tmp_path / "sub") == [name]
    assert read_metadata(tmp_path / "sub" / name).get("step") == ("7" if name.endswith(".safetensors") else None)


@pytest.mark.parametrize("fails_in", ["save_file", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_in: str) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.zeros(2)}, metadata={})
    before = sha256(path)

    def full_disk(*_args: object, **_kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(files if fails_in == "save_file" else files.os, fails_in, full_disk)
    with pytest.raises(OSError, match="no space"):
        write_tensors(path, {"x": torch.ones(2)}, metadata={})
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert sha256(path) == before


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(100)}, metadata={})
    write_tensors(tmp_path / "a.pth", {"x": torch.zeros(100)}, metadata={})
    for name in ("a.safetensors", "a.pth"):
        whole = (tmp_path / name).read_bytes()
        for kept in (0, 5, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:kept])
            with pytest.raises(CheckpointError, match=r"a\.(pth|safetensors): got .*") as caught:
                read_tensors(tmp_path / name)
            assert "\n" not in str(caught.value)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"suffix '\.txt'"):
        read_tensors(tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match="no such file"):
        read_tensors(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="got a folder"):
        read_tensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_metadata(tmp_path / "a.safetensors")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"x": NotATensor()}, tmp_path / "evil.bin")
    with pytest.raises(CheckpointError, match=r"evil\.bin: got pickled objects"):
        read_tensors(tmp_path / "evil.bin")
    torch.save({"x": [1, 2]}, tmp_path / "list.bin")
    with pytest.raises(CheckpointError, match="objects besides tensors"):
        read_tensors(tmp_path / "list.bin")


def test_a_state_dict_inside_is_taken(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.ones(1)}, "epoch": 3}, tmp_path / "lightning.ckpt")
    assert list(read_tensors(tmp_path / "lightning.ckpt")) == ["x"]


def test_shards(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"y": torch.ones(1)}, tmp_path / "2.safetensors")
    assert sorted(read_many([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])) == ["x", "y"]
    with pytest.raises(CheckpointError, match="1 keys that an earlier shard has too"):
        read_many([tmp_path / "1.safetensors", tmp_path / "1.safetensors"])


def test_key_report() -> None:
    require_keys({"a": 1}, ["a"], what="file")
    with pytest.raises(
        CheckpointError, match=r"file: got 7 keys, 1 missing \(z\) and 7 unexpected \(a, b, c, d, ...\), expected exactly 1 keys"
    ):
        require_keys(list("abcdefg"), ["z"], what="file")
    with pytest.raises(CheckpointError, match=r"first a \(2,\), expected \(3,\)"):
        require_shapes({"a": torch.ones(2)}, {"a": torch.ones(3)}, what="file")


@pytest.mark.parametrize("name", ["merge.safetensors", "decoder.bin"])
def test_a_full_disk_is_one_line_and_keeps_the_file_before(name: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / name, {"x": torch.ones(1)}, metadata={})
    with full_after(4096), pytest.raises(CheckpointError, match=rf"{name}: got .*make room on the disk"):
        write_tensors(tmp_path / name, {"x": torch.ones(100_000)}, metadata={})
    assert torch.equal(read_tensors(tmp_path / name)["x"], torch.ones(1))
    assert [path.name for path in tmp_path.iterdir()] == [name]
