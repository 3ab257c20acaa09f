"""The files of Stage 1 at real size (base_dim 96, two blocks, rank 128), on the meta device, against the published tables."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan_alpha.checkpoints.stage1 import Stage1Tensors, decoder_lora_keys, full_keys, merge_keys
from wan_alpha.models.feature_merge import MergeLayout
from wan_alpha.models.rgba_vae import build_rgba_vae

Shapes = dict[str, tuple[int, ...]]
RANK, CUBE = 128, (3, 3, 3)


def biased(name: str, outputs: int, *rest: int) -> Shapes:
    return {f"{name}.weight": (outputs, *rest), f"{name}.bias": (outputs,)}


def residual(name: str, width: int) -> Shapes:
    norms = {f"{name}.residual.{index}.gamma": (width, 1, 1, 1) for index in (0, 3)}
    return {**norms, **biased(f"{name}.residual.2", width, width, *CUBE), **biased(f"{name}.residual.6", width, width, *CUBE)}


def attention(name: str, width: int) -> Shapes:
    projections = {**biased(f"{name}.to_qkv", 3 * width, width, 1, 1), **biased(f"{name}.proj", width, width, 1, 1)}
    return {f"{name}.norm.gamma": (width, 1, 1), **projections}


def merge_shapes(layout: MergeLayout) -> Shapes:
    """Of the block itself: released, on two times 384 features, or the paper's first version, on two times 16 latent channels."""
    if layout == "feature":
        middle = [(attention if index % 2 else residual)(f"block.middle.{index}", 384) for index in range(5)]
        head = {"block.head.0.gamma": (384, 1, 1, 1), **biased("block.head.2", 16, 384, *CUBE)}
        parts = [biased("block.conv1", 384, 768, 1, 1, 1), *middle, head]
    else:
        pairs = [part for i in range(3) for part in (residual(f"res_blocks.{i}", 192), attention(f"attn_blocks.{i}", 192))]
        parts = [biased("conv_in", 192, 32, *CUBE), *pairs, biased("conv_out", 16, 192, *CUBE)]
    return {key: shape for part in parts for key, shape in part.items()}


def decoder_convolutions() -> dict[str, tuple[int, int, tuple[int, ...]]]:
    """Original path -> inputs, outputs, kernel of all 38."""
    found: dict[str, tuple[int, int, tuple[int, ...]]] = {"conv1": (16, 384, CUBE), "head.2": (96, 3, CUBE)}
    levels = {(0, 1, 2): (384, 384), (4, 5, 6): (192, 384), (8, 9, 10): (192, 192), (12, 13, 14): (96, 96)}
    for blocks, (first, width) in levels.items():
        for index in blocks:
            found[f"upsamples.{index}.residual.2"] = (first if index == blocks[0] else width, width, CUBE)
            found[f"upsamples.{index}.residual.6"] = (width, width, CUBE)
    found |= {f"middle.{index}.residual.{conv}": (384, 384, CUBE) for index in (0, 2) for conv in (2, 6)}
    found |= {"middle.1.to_qkv": (384, 1152, (1, 1)), "middle.1.proj": (384, 384, (1, 1)), "upsamples.4.shortcut": (192, 384, (1, 1, 1))}
    found |= {f"upsamples.{index}.resample.1": (width, width // 2, (3, 3)) for index, width in ((3, 384), (7, 384), (11, 192))}
    return found | {f"upsamples.{index}.time_conv": (384, 768, (3, 1, 1)) for index in (3, 7)}


def lora_shapes() -> Shapes:
    shapes: Shapes = {}
    for decoder in ("fgr", "pha"):
        for path, (inputs, outputs, kernel) in decoder_convolutions().items():
            name = f"vae_{decoder}.decoder.{path}{'.conv3D' if len(kernel) == 3 else ''}"
            shapes[f"{name}.lora_A.default.weight"] = (RANK, inputs, *kernel)
            shapes[f"{name}.lora_B.default.weight"] = (outputs, RANK, *[1] * len(kernel))
    return shapes


def shapes_of(tensors: dict[str, Tensor]) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


@pytest.mark.parametrize("layout", ["feature", "latent"])
def test_every_key_and_shape_of_the_published_files(layout: MergeLayout) -> None:
    with torch.device("meta"):
        parts: Stage1Tensors = build_rgba_vae(AutoencoderKLWan(), layout=layout, merge_init="random", rank=RANK).stage1_tensors()
    merge, lora = merge_shapes(layout), lora_shapes()
    assert len(decoder_convolutions()) == 38
    assert len(merge) == {"feature": 33, "latent": 37}[layout]
    assert shapes_of(merge_keys(parts)) == {("middle." if layout == "feature" else "") + key: shape for key, shape in merge.items()}
    assert shapes_of(decoder_lora_keys(parts)) == lora
    assert shapes_of(full_keys(parts)) == {**{f"middle.{key}": shape for key, shape in merge.items()}, **lora}
