"""Tiles: the pixels of the whole frame, at the seams as anywhere."""

import pytest
import torch

from wan_alpha.config import BaseModelConfig
from wan_alpha.encoding import load_rgba_vae
from wan_alpha.models import rgba_vae as module
from wan_alpha.models import tiles, whole_clip
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.recipes.tiny import STAGE1


@pytest.fixture(scope="module")
def vae() -> RGBAlphaVAE:
    torch.set_num_threads(1)
    return load_rgba_vae(BaseModelConfig(vae_lora_path=STAGE1), device=torch.device("cpu"), needs=("decoders",))


def test_tiles_equal_the_whole_pass_at_every_seam(vae: RGBAlphaVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    core = 8
    monkeypatch.setattr(tiles, "TILE", core)
    latents = torch.randn(1, 16, 2, 3, 40, generator=torch.Generator().manual_seed(1))
    assert core + 2 * tiles.margin(vae.rgb_decoder) < 40  # a tile does not see the whole frame
    whole = whole_clip.decode(vae.rgb_decoder, vae.post_quant_conv, latents)
    tiled = tiles.tiled_decode(vae.rgb_decoder, vae.post_quant_conv, latents)
    assert tiled.shape == whole.shape == (1, 3, 5, 24, 320)
    for seam in range(8 * core, 320, 8 * core):
        torch.testing.assert_close(tiled[..., seam - 1 : seam + 1], whole[..., seam - 1 : seam + 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=0)


def test_the_margin_is_needed(vae: RGBAlphaVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 8)
    monkeypatch.setattr(tiles, "margin", lambda decoder: 1)
    latents = torch.randn(1, 16, 1, 4, 24, generator=torch.Generator().manual_seed(1))
    whole = whole_clip.decode(vae.rgb_decoder, vae.post_quant_conv, latents)
    assert (tiles.tiled_decode(vae.rgb_decoder, vae.post_quant_conv, latents) - whole).abs().max() > 1e-3


def test_margin_of_wan() -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d

    with torch.device("meta"):
        decoder = WanDecoder3d(dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_upsample=[True, True, False])
    assert tiles.margin(decoder) == 13


def test_size_chooses(vae: RGBAlphaVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr(module, "tiled_decode", lambda decoder, conv, latents: chosen.append("tiled") or latents)
    latents = torch.zeros(1, 16, 1, 128, 129)
    for passes, expected in (("auto", ["tiled"]), ("tiled", ["tiled"])):
        monkeypatch.setattr(vae, "passes", passes)
        chosen.clear()
        vae._decode(vae.rgb_decoder, latents)
        assert chosen == expected
