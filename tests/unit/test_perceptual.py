from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from wan_alpha.errors import CheckpointError
from wan_alpha.models import perceptual
from wan_alpha.models.perceptual import VGG16Features, load_vgg16, vgg16_file, vgg16_from_tensors


def torchvision_like(first: int = 4, second: int = 6) -> dict[str, Tensor]:
    shapes = {0: (first, 3), 2: (first, first), 5: (second, first), 7: (second, second), 10: (8, second)}
    tensors = {f"features.{i}.weight": torch.randn(*shape, 3, 3) for i, shape in shapes.items()}
    return tensors | {f"features.{i}.bias": torch.randn(shape[0]) for i, shape in shapes.items()} | {"classifier.0.bias": torch.ones(2)}


def test_layers_are_vgg16s() -> None:
    network = VGG16Features()
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items() if key.endswith("weight")} == {
        "features.0.weight": (64, 3, 3, 3),
        "features.2.weight": (64, 64, 3, 3),
        "features.5.weight": (128, 64, 3, 3),
        "features.7.weight": (128, 128, 3, 3),
    }
    assert network(torch.rand(2, 3, 8, 12)).shape == (2, 128, 4, 6)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_loads_torchvision_names_and_half_precision() -> None:
    tensors = torchvision_like()
    network = vgg16_from_tensors({key: tensor.half() for key, tensor in tensors.items()})
    frames = torch.rand(1, 3, 4, 4, requires_grad=True)
    features = network(frames)
    assert features.dtype == torch.float32
    assert bool((features >= 0).all())
    features.sum().backward()
    assert frames.grad is not None
    del tensors["features.5.bias"]
    with pytest.raises(CheckpointError, match="--perceptual none"):
        vgg16_from_tensors(tensors)


def test_a_file_of_another_hash_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision_like(), tmp_path / "vgg16-397923af.pth")
    with pytest.raises(CheckpointError, match=r"sha256 .*expected 397923af.*--perceptual_weights PATH"):
        load_vgg16(tmp_path / "vgg16-397923af.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        load_vgg16(tmp_path / "absent.pth")


def test_a_file_of_the_right_hash_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = torchvision_like()
    torch.save(tensors, tmp_path / "vgg.pth")
    monkeypatch.setattr(perceptual, "VGG16_HASH", perceptual.sha256(tmp_path / "vgg.pth")[:8])
    assert torch.equal(load_vgg16(tmp_path / "vgg.pth").features[7].weight, tensors["features.7.weight"])


def test_offline_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(CheckpointError, match=r"no network.*--perceptual none.*--perceptual_weights PATH"):
        load_vgg16()


def test_torch_hubs_copy_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub checks what it downloads, but not what lies there already."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(torchvision_like(), vgg16_file())
    with pytest.raises(CheckpointError, match=r"vgg16-397923af\.pth: got sha256 .*--perceptual none"):
        load_vgg16()
    monkeypatch.setattr(perceptual, "VGG16_HASH", perceptual.sha256(vgg16_file())[:8])
    assert load_vgg16().features[0].weight.shape == (4, 3, 3, 3)


def test_the_file_behind_the_features(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert vgg16_file() == tmp_path / "checkpoints" / "vgg16-397923af.pth"
    assert vgg16_file(tmp_path / "mine.pth") == tmp_path / "mine.pth"
