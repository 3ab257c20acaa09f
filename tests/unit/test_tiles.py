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


@pytest.mark.parametrize(("t", "h", "w"), [(2, 3, 40), (1, 40, 3), (1, 24, 24)], ids=["columns", "rows", "rows and columns"])
def test_tiles_equal_the_whole_pass_at_every_seam(vae: RGBAlphaVAE, monkeypatch: pytest.MonkeyPatch, t: int, h: int, w: int) -> None:
    core = 8
    monkeypatch.setattr(tiles, "TILE", core)
    latents = torch.randn(1, 16, t, h, w, generator=torch.Generator().manual_seed(1))
    assert core + tiles.margin(vae.rgb_decoder) < max(h, w)  # the first tile does not see the whole frame
    whole = whole_clip.decode(vae.rgb_decoder, vae.post_quant_conv, latents)
    tiled = tiles.tiled_decode(vae.rgb_decoder, vae.post_quant_conv, latents)
    assert tiled.shape == whole.shape == (1, 3, 4 * t - 3, 8 * h, 8 * w)
    for seam in range(8 * core, 8 * w, 8 * core):
        torch.testing.assert_close(tiled[..., seam - 1 : seam + 1], whole[..., seam - 1 : seam + 1], atol=1e-4, rtol=0)
    for seam in range(8 * core, 8 * h, 8 * core):
        torch.testing.assert_close(tiled[..., seam - 1 : seam + 1, :], whole[..., seam - 1 : seam + 1, :], atol=1e-4, rtol=0)
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("h", "w"), [(4, 24), (24, 4), (16, 16)], ids=["columns", "rows", "rows and columns"])
def test_the_margin_is_needed(vae: RGBAlphaVAE, monkeypatch: pytest.MonkeyPatch, h: int, w: int) -> None:
    monkeypatch.setattr(tiles, "TILE", 8)
    monkeypatch.setattr(tiles, "margin", lambda decoder: 1)
    latents = torch.randn(1, 16, 1, h, w, generator=torch.Generator().manual_seed(1))
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
