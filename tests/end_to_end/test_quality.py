"""What ships with the package does what its card says, on a few clips of the full measurements."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wan_alpha import recipes
from wan_alpha.config import BaseModelConfig
from wan_alpha.data.synthetic import evaluation_scenes, render_opaque, sample_scene, transparent_caption
from wan_alpha.evaluate import evaluate
from wan_alpha.generate import generate
from wan_alpha.models import whole_clip
from wan_alpha.models.load import load_vae, resolve_base
from wan_alpha.prepare import prepare

CPU = torch.device("cpu")


@torch.no_grad()
def test_the_tiny_vae_reconstructs_held_out_clips():
    vae = load_vae(resolve_base(BaseModelConfig()), dtype=torch.float32, device=CPU)
    values = []
    for i in range(6):
        pixels = render_opaque(sample_scene(10_000_000 + i), num_frames=17, height=64, width=64)
        clip = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None] * 2 - 1
        moments = whole_clip.encoder_head(vae.encoder, vae.quant_conv, whole_clip.encoder_features(vae.encoder, clip))
        recon = whole_clip.decode(vae.decoder, vae.post_quant_conv, moments[:, : vae.config.z_dim]).clamp(-1, 1)
        values.append(-10 * np.log10(((recon - clip) / 2).square().mean().item()))
    assert np.mean(values) > 28


def test_the_shipped_stage1_is_excellent_on_held_out_clips(tmp_path):
    """The seed's bounds, RGB MAE below 10 and alpha MAE below 5; PSNR within 1 dB of the first tiny VAE on opaque clips, 29.16."""
    tiny = recipes.get_recipe("tiny")
    prepare(replace(tiny.prepare, synthetic=8, seed=1_000_000, output_path=tmp_path / "data"))
    found = evaluate(replace(tiny.evaluate, dataset_base_path=tmp_path / "data", output_path=tmp_path / "evaluation"))
    assert found.mean["alpha_mae"] < 5
    assert found.mean["rgb_mae"] < 10
    assert found.mean["background_leak"] < 0.01
    assert found.mean["psnr"] >= 29.16 - 1
    assert found.mean["alpha_psnr"] >= 29.16 - 1


@pytest.mark.slow
def test_the_shipped_adapter_generates_on_transparency_and_the_base_does_not(tmp_path):
    """Solid subjects of the sixteen fixed prompts of benchmarks/transparency.py."""
    prompts = tuple(transparent_caption(scene) for scene in evaluation_scenes(16, seed=40_000_000)[:4])
    config = replace(recipes.get_recipe("tiny").generate, prompt=prompts)
    with_adapter = generate(replace(config, output_path=tmp_path / "adapter"))
    without = generate(replace(config, adapter_path=None, output_path=tmp_path / "base"))
    assert sum(clean(clip.transparency) for clip in with_adapter) >= 3
    assert sum(clean(clip.transparency) for clip in without) <= 1


def clean(statistics):
    return statistics["border_leak"] < 0.05 and 0.02 < statistics["coverage"] < 0.7 and statistics["peak"] > 0.9
