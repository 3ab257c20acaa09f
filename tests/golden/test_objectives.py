"""Render, losses, masks, flow and previews against the recorded reference; tolerances from the golden README."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wan_alpha import preview
from wan_alpha.objectives import flow, reconstruction, transparency
from wan_alpha.rgba import RENDER_COLOURS, from_signed, hard_render, soft_render, to_signed, to_uint8

Load = Callable[[str], dict[str, Tensor]]
MU = 0.05  # the golden README's mean shift


@pytest.fixture(scope="module")
def masks(load_golden: Load) -> dict[str, dict[str, Tensor]]:
    """Clip name -> its tensors, alpha in [0, 1]."""
    clips: dict[str, dict[str, Tensor]] = {}
    for key, value in load_golden("masks.safetensors").items():
        clip, name = key.split(".")
        clips.setdefault(clip, {})[name] = from_signed(value) if name == "alpha" else value
    assert clips
    return clips


def test_renders(load_golden: Load) -> None:
    recorded = load_golden("render.safetensors")
    rgb, alpha = from_signed(recorded["rgb"]), from_signed(recorded["alpha"])
    for index in range(8):
        colour = RENDER_COLOURS[index].expand(len(rgb), 3)
        hard, soft = hard_render(rgb, alpha, colour, threshold=0.0), soft_render(rgb, alpha, colour)
        torch.testing.assert_close(to_signed(hard), recorded[f"hard.{index}"].float(), atol=1e-3, rtol=0)
        torch.testing.assert_close(to_signed(soft), recorded[f"soft.{index}"].float(), atol=1e-3, rtol=0)


def test_reconstruction_terms(load_golden: Load, meta: dict) -> None:
    recorded = load_golden("losses.safetensors")

    def vgg16(frames: Tensor) -> Tensor:
        for layer in (0, 2, 5, 7):
            if layer == 5:
                frames = F.max_pool2d(frames, 2)
            weight, bias = (recorded[f"vgg16.features.{layer}.{name}"].float() for name in ("weight", "bias"))
            frames = F.relu(F.conv2d(frames, weight, bias, padding=1))
        return frames

    clip = {name: from_signed(recorded[name]) for name in ("rgb", "alpha", "rgb_recon", "alpha_recon")}
    hard, soft = (RENDER_COLOURS[meta["losses"][f"{kind}_color_index"]].expand(len(clip["rgb"]), 3) for kind in ("hard", "soft"))
    with torch.no_grad():
        terms = reconstruction.rgba_reconstruction_loss(
            (clip["rgb_recon"], clip["alpha_recon"]),
            (clip["rgb"], clip["alpha"]),
            hard_colour=hard,
            soft_colour=soft,
            perceptual_features=vgg16,
            settings=reconstruction.REFERENCE,
        )
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(meta["losses"]["terms"], rel=1e-4)


def test_three_valued_mask(masks: dict) -> None:
    for clip in masks.values():
        assert torch.equal(transparency.three_valued_mask(clip["alpha"], rule="reference"), clip["tri"])


def test_gaussian_of_the_recorded_ellipse(masks: dict) -> None:
    for clip in masks.values():
        height, width = clip["gauss"].shape[-2:]
        gaussian = transparency.gaussian_from_cells(clip["ellipse"], height=height, width=width)
        torch.testing.assert_close(gaussian, clip["gauss"], atol=1e-4, rtol=0)


def test_our_ellipse_covers_the_subject(masks: dict) -> None:
    for clip in masks.values():
        occupied = transparency.occupancy(clip["alpha"])[0] > 0.2
        for cells, ellipse in zip(occupied, transparency.fit_ellipses(clip["alpha"])[0], strict=True):
            if not cells.any():
                assert ellipse.isnan().all()
                continue
            y, x = cells.nonzero(as_tuple=True)
            cx, cy, su, sv, degrees = ellipse.tolist()
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            u, v = ((x - cx) * cos + (y - cy) * sin) / su, ((y - cy) * cos - (x - cx) * sin) / sv
            assert (u**2 + v**2 <= 1 + 1e-4).float().mean() >= 0.98


def test_published_ellipse_search(masks: dict) -> None:
    cv2 = pytest.importorskip("cv2", reason="the published search draws its trial ellipses with OpenCV (extra 'reference')")
    for clip in masks.values():
        height, width = clip["gauss"].shape[-2:]

        def draw(centre: tuple, semi_axes: tuple, degrees: float, size: tuple = (height, width)) -> Tensor:
            canvas = torch.zeros(size, dtype=torch.uint8)
            cv2.ellipse(canvas.numpy(), centre, semi_axes, degrees, 0, 360, 1, -1)
            return canvas > 0

        for threshold, enlargements, name in ((0.75, 8, "gauss"), (0.1, 10, "gauss_infer")):
            shares = transparency.occupancy(clip["alpha"], threshold=threshold)[0]
            ellipses = torch.stack([transparency.reference_ellipse(s, enlargements=enlargements, rasterise=draw) for s in shares])
            gaussian = transparency.gaussian_from_cells(ellipses, height=height, width=width)
            torch.testing.assert_close(gaussian, clip[name], atol=1e-4, rtol=0)


def test_flow_table(load_golden: Load) -> None:
    recorded = load_golden("flow.safetensors")
    sigmas, timesteps, weights = flow.reference_table()
    torch.testing.assert_close(sigmas, recorded["sigmas"], atol=1e-5, rtol=0)
    torch.testing.assert_close(timesteps, recorded["timesteps"], atol=1e-3, rtol=0)
    torch.testing.assert_close(weights, recorded["weights"], atol=1e-5, rtol=0)


def test_flow_losses(load_golden: Load, meta: dict) -> None:
    recorded = load_golden("flow.safetensors")
    x0, noise, prediction, count = recorded["x0"], recorded["noise"], recorded["pred"], len(recorded["x0"])
    shifted = flow.shift_noise(noise, recorded["gauss_mask"], mu=MU)
    torch.testing.assert_close(shifted, recorded["noise_shifted"], atol=1e-5, rtol=0)
    sigmas, timesteps, weights = flow.reference_table()
    assert meta["flow"]
    for key, expected in meta["flow"].items():
        sigma, weight = sigmas[int(key)].expand(count), weights[int(key)].expand(count)
        torch.testing.assert_close(flow.noise_at(x0, shifted, sigma), recorded[f"xt.{key}"], atol=1e-5, rtol=0)
        loss = flow.flow_loss(prediction, flow.velocity(x0, shifted), weight).mean()
        clamped = flow.bidirectional_loss(prediction, flow.velocity(x0, noise), recorded["tri_mask"], weight, mode="reference")
        assert timesteps[int(key)].item() == pytest.approx(expected["timestep"], abs=1e-3)
        assert weight[0].item() == pytest.approx(expected["weight"], abs=1e-5)
        assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
        assert clamped.item() == pytest.approx(expected["bidirectional"], rel=1e-5)


def test_straight_rgba(load_golden: Load) -> None:
    recorded = load_golden("preview.safetensors")
    rgb, alpha = from_signed(recorded["rgb"]), from_signed(recorded["alpha"]).mean(dim=1, keepdim=True)
    rgba = to_uint8(torch.cat([rgb, alpha], dim=1))[0].permute(1, 2, 3, 0)
    assert (rgba.int() - recorded["rgba"].int()).abs().max() <= 1


def test_reference_checkerboard(load_golden: Load) -> None:
    recorded = load_golden("preview.safetensors")
    rgba = recorded["rgba"].permute(3, 0, 1, 2) / 255
    board = preview.reference_checkerboard(*rgba.shape[-2:])
    composite = to_uint8(preview.composite(rgba[:3], rgba[3:], board)).permute(1, 2, 3, 0)
    assert (composite.int() - recorded["checkerboard"].int()).abs().max() <= 2
