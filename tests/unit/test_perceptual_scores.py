"""LPIPS and fid_vgg16 from small random weights in the public layouts, against computations that share no code with them."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan_alpha.cli import main
from wan_alpha.config import EvaluateConfig
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.evaluate import evaluate
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_png_sequence
from wan_alpha.metrics.frechet import FeatureStatistics, frechet_distance
from wan_alpha.models import perceptual
from wan_alpha.models.lpips import VGG16Stages, load_lpips_heads, load_vgg16_stages, lpips
from wan_alpha.perceptual_scores import PerceptualScores
from wan_alpha.rgba import METRIC_COLOURS

WIDTHS = (4, 5, 6, 7, 8)
LAYOUT = (WIDTHS[0],) * 2, (WIDTHS[1],) * 2, (WIDTHS[2],) * 3, (WIDTHS[3],) * 3, (WIDTHS[4],) * 3
ENDS = (3, 8, 15, 22, 29)  # torchvision's numbers of relu1_2 to relu5_3


def torchvision_features() -> nn.Sequential:
    """VGG16's `features` as torchvision builds and numbers them: conv, relu, ..., pool; without the last pool."""
    layers: list[nn.Module] = []
    channels = 3
    for widths in LAYOUT:
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def outputs(features: nn.Sequential, signed: Tensor) -> list[Tensor]:
    """relu1_2 to relu5_3 of frames in [-1, 1], scaled with the constants that lpips 0.1 has for that range."""
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    x, found = (signed - shift) / scale, []
    for number, layer in enumerate(features):
        x = layer(x)
        if number in ENDS:
            found.append(x)
    return found


def expected_lpips(features: nn.Sequential, heads: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros(len(x))
    for i, (a, b) in enumerate(zip(outputs(features, 2 * x - 1), outputs(features, 2 * y - 1), strict=True)):
        difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)) ** 2
        total += F.conv2d(difference, heads[f"lin{i}.model.1.weight"]).mean(dim=(1, 2, 3))
    return total


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return torchvision_features()


@pytest.fixture
def files(tmp_path: Path, network: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """vgg.pth with a classifier behind the features, and heads.pth."""
    tensors = {f"features.{name}": tensor for name, tensor in network.state_dict().items()} | {"classifier.0.bias": torch.ones(2)}
    torch.save(tensors, tmp_path / "vgg.pth")
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(WIDTHS)}, tmp_path / "heads.pth")
    monkeypatch.setattr(perceptual, "VGG16_HASH", perceptual.sha256(tmp_path / "vgg.pth")[:8])
    return {"vgg": tmp_path / "vgg.pth", "heads": tmp_path / "heads.pth"}


@pytest.fixture
def config(tmp_path: Path) -> EvaluateConfig:
    """Two true clips of 3 and 2 frames, and predictions of noise beside them."""
    rng = np.random.default_rng(0)
    for folder in ("truth", "predictions"):
        for name, frames in (("a", 3), ("b", 2)):
            pixels = rng.integers(0, 256, (frames, 16, 24, 4), dtype=np.uint8)
            write_png_sequence(RgbaClip(rgb=pixels[..., :3], alpha=pixels[..., 3], fps=8.0), tmp_path / folder / name)
    return EvaluateConfig(dataset_base_path=tmp_path / "truth", predictions=tmp_path / "predictions", output_path=tmp_path / "out")


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Colour and alpha (T, C, H, W) as Pillow reads them."""
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])
    assert pixels.shape[-1] == 4
    both = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    return both[:, :3], both[:, 3:]


def composites(folder: Path) -> dict[str, Tensor]:
    rgb, alpha = read(folder)
    return {name: rgb * alpha + torch.tensor(colour).view(1, 3, 1, 1) * (1 - alpha) for name, colour in METRIC_COLOURS.items()}


def test_real_widths_are_vgg16s() -> None:
    shapes = [tuple(layer.weight.shape) for layer in VGG16Stages().features.values()]
    assert (len(shapes), shapes[0], shapes[6], shapes[-1]) == (13, (64, 3, 3, 3), (256, 256, 3, 3), (512, 512, 3, 3))
    assert sum(np.prod(shape) + shape[0] for shape in shapes) == 14_714_688  # of torchvision's vgg16().features


def test_lpips_is_that_of_plain_torch(files: dict[str, Path], network: nn.Sequential) -> None:
    vgg16 = load_vgg16_stages(files["vgg"])
    heads = load_lpips_heads(files["heads"], widths=vgg16.widths)
    x, y = torch.rand(2, 3, 3, 20, 36)
    found = lpips(vgg16(x), others=vgg16(y), heads=heads)
    assert found.shape == (3,)
    torch.testing.assert_close(found, expected_lpips(network, torch.load(files["heads"], weights_only=True), x, y), rtol=1e-4, atol=1e-7)
    assert not lpips(vgg16(x), others=vgg16(x), heads=heads).any()
    with pytest.raises(UsageError, match="got frames of 24x15, expected sides of at least 16 pixels"):
        vgg16(torch.rand(1, 3, 15, 24))


def of(samples: Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for piece in samples.split(3):
        statistics.add(piece)
    return statistics


def test_statistics_of_pieces_are_those_of_the_whole() -> None:
    samples = torch.rand(11, 4) * torch.tensor([1.0, 10.0, 100.0, 0.1]) + 50
    found = of(samples)
    assert found.count == 11
    np.testing.assert_allclose(found.mean(), samples.double().numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance(), np.cov(samples.double().numpy(), rowvar=False), rtol=1e-6, atol=1e-9)


def test_frechet_distance_of_two_gaussians_in_closed_form() -> None:
    """In two dimensions tr(M^(1/2)) = (tr M + 2 det(M)^(1/2))^(1/2), here with covariances that do not commute."""
    torch.manual_seed(1)
    x = torch.randn(40, 2) @ torch.tensor([[2.0, 0.3], [0.0, 0.5]])
    y = torch.randn(50, 2) @ torch.tensor([[0.4, -1.0], [0.2, 1.5]]) + torch.tensor([1.0, -2.0])
    s, t = (np.cov(z.double().numpy(), rowvar=False) for z in (x, y))
    assert np.abs(s @ t - t @ s).max() > 0.1
    root = np.sqrt(np.trace(s @ t) + 2 * np.sqrt(np.linalg.det(s @ t)))
    expected = float((x.double().mean(0) - y.double().mean(0)).square().sum()) + np.trace(s) + np.trace(t) - 2 * root
    assert frechet_distance(of(x), true=of(y)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(of(y), true=of(x)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(of(x), true=of(x)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(of(x[:1]), true=of(y[:1])) == pytest.approx(float((x[0] - y[0]).double().square().sum()), rel=1e-6)


def test_evaluate_without_files_measures_neither(config: EvaluateConfig) -> None:
    assert not {"lpips", "alpha_lpips", "fid_vgg16"} & evaluate(config).mean.keys()
    assert PerceptualScores().meanings() == {}


def test_evaluate_means_lpips_over_nine_backgrounds_and_frames(
    config: EvaluateConfig, files: dict[str, Path], network: nn.Sequential
) -> None:
    found = evaluate(replace(config, lpips_weights=files["heads"], perceptual_weights=files["vgg"]))
    heads = torch.load(files["heads"], weights_only=True)
    for name in ("a", "b"):
        true, predicted = (composites(folder / name) for folder in (config.dataset_base_path, config.predictions))
        over_colours = [expected_lpips(network, heads, predicted[colour], true[colour]) for colour in METRIC_COLOURS]
        assert found.clips[name]["lpips"] == pytest.approx(float(torch.stack(over_colours).mean()), rel=1e-4)
        greys = [read(folder / name)[1].expand(-1, 3, -1, -1) for folder in (config.predictions, config.dataset_base_path)]
        assert found.clips[name]["alpha_lpips"] == pytest.approx(float(expected_lpips(network, heads, *greys).mean()), rel=1e-4)
    assert found.mean["lpips"] == pytest.approx((found.clips["a"]["lpips"] + found.clips["b"]["lpips"]) / 2)
    assert "fid_vgg16" not in found.mean
    report = json.loads(found.report.read_text())
    assert "LPIPS 0.1 on VGG16" in report["meanings"]["lpips"]
    assert [line for line in found.summary() if line.startswith("LPIPS (VGG16) over nine backgrounds 0.")]


def test_evaluate_gives_the_set_one_frechet_distance(config: EvaluateConfig, files: dict[str, Path], network: nn.Sequential) -> None:
    found = evaluate(replace(config, fid_weights=files["vgg"]))
    distances = []
    for colour in METRIC_COLOURS:
        means, covariances = [], []
        for folder in (config.predictions, config.dataset_base_path):
            frames = torch.cat([composites(folder / name)[colour] for name in ("a", "b")])
            features = outputs(network, 2 * frames - 1)[-1].mean(dim=(2, 3)).double().numpy()
            means.append(features.mean(axis=0))
            covariances.append(np.cov(features, rowvar=False))
        root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
        distances.append(np.square(means[0] - means[1]).sum() + sum(np.trace(c) for c in covariances) - 2 * root)
    assert found.mean["fid_vgg16"] == pytest.approx(np.mean(distances), rel=1e-3)
    assert all("fid_vgg16" not in clip for clip in found.clips.values())
    assert "lpips" not in found.mean
    assert "not comparable with published rFID" in json.loads(found.report.read_text())["meanings"]["fid_vgg16"]
    with found.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fid_vgg16"] for row in rows] == ["", "", str(found.mean["fid_vgg16"])]
    assert "<p>fid_vgg16 is not comparable with published rFID" in found.page.read_text()


def test_equal_clips_score_nothing_and_one_vgg16_serves_both(config: EvaluateConfig, files: dict[str, Path]) -> None:
    same = replace(config, predictions=config.dataset_base_path, lpips_weights=files["heads"], fid_weights=files["vgg"])
    found = evaluate(same)
    assert (found.mean["lpips"], found.mean["alpha_lpips"]) == (0, 0)
    assert found.mean["fid_vgg16"] == pytest.approx(0, abs=1e-6)
    record = json.loads((config.output_path / "run.json").read_text())
    assert record["weights"] == {
        "LPIPS": {str(files["heads"]): perceptual.sha256(files["heads"])},
        "VGG16": {str(files["vgg"]): perceptual.sha256(files["vgg"])},
    }


def test_files_that_are_not_what_they_should_be(config: EvaluateConfig, files: dict[str, Path], tmp_path: Path) -> None:
    vgg, heads = (torch.load(files[name], weights_only=True) for name in ("vgg", "heads"))
    with pytest.raises(CheckpointError, match=r"absent\.pth: got no such file"):
        evaluate(replace(config, fid_weights=tmp_path / "absent.pth"))
    with pytest.raises(CheckpointError, match=r"heads\.pth: got sha256 .*torchvision's file.*--perceptual_weights PATH or --fid_weights"):
        evaluate(replace(config, lpips_weights=files["heads"], perceptual_weights=files["heads"]))
    with pytest.raises(CheckpointError, match=r"LPIPS heads for VGG16 .*vgg\.pth: got 27 keys, 5 missing \(lin0\.model\.1\.weight"):
        evaluate(replace(config, lpips_weights=files["vgg"], fid_weights=files["vgg"]))
    torch.save({**heads, "lin2.model.1.weight": torch.rand(1, 384, 1, 1)}, tmp_path / "alex.pth")
    with pytest.raises(CheckpointError, match=r"lin2\.model\.1\.weight \(1, 384, 1, 1\), expected \(1, 6, 1, 1\)"):
        load_lpips_heads(tmp_path / "alex.pth", widths=WIDTHS)
    del vgg["features.28.bias"]
    torch.save(vgg, files["vgg"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "VGG16_HASH", perceptual.sha256(files["vgg"])[:8])
        with pytest.raises(CheckpointError, match=r"vgg\.pth: got 25 keys, 1 missing \(features\.28\.bias\)"):
            evaluate(replace(config, fid_weights=files["vgg"]))
    assert not config.output_path.exists()


def test_two_networks_or_none_are_refused(config: EvaluateConfig, files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"--perceptual_weights: got no --lpips_weights"):
        evaluate(replace(config, perceptual_weights=files["vgg"]))
    with pytest.raises(UsageError, match=r"got another file than --fid_weights, expected one VGG16 for both"):
        evaluate(replace(config, lpips_weights=files["heads"], perceptual_weights=files["heads"], fid_weights=files["vgg"]))


def test_the_command_line_says_it_in_one_line(config: EvaluateConfig, files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset_base_path", config.dataset_base_path, "--predictions", config.predictions, "--output_path", config.output_path]
    command = ["evaluate", *map(str, words), "--fid_weights", str(files["vgg"])]
    assert main([*command, "--lpips_weights", str(files["heads"].with_name("none.pth"))]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert main(command) == 0
    assert "(not comparable with published rFID)" in capsys.readouterr().out
