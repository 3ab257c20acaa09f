"""The bidirectional loss in Stage 1: which cells it moves, what the judge sees, and that it is frozen."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from wan_alpha import recipes
from wan_alpha.errors import UsageError
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae
from wan_alpha.objectives.flow import bell_weight, bidirectional_loss, noise_at, velocity
from wan_alpha.train.judge import Judge, bidirectional_term, judge_sigma, judge_weights, load_judge

Z = 4


@pytest.fixture(scope="module")
def model() -> RGBAlphaVAE:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4, z_dim=Z, num_res_blocks=1, latents_mean=[0.5, -1.0, 0.0, 2.0], latents_std=[2.0, 0.5, 1.0, 3.0])
    return build_rgba_vae(vae)


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "ffn_dim": 16, "text_dim": 8, "freq_dim": 8}
    made = WanTransformer3DModel(in_channels=Z, out_channels=Z, rope_max_seq_len=32, **sizes).eval().requires_grad_(False)
    made.enable_gradient_checkpointing()
    return made


def judge(transformer: WanTransformer3DModel, mode: str) -> Judge:
    return Judge(transformer=transformer, context=torch.zeros(1, 3, 8), mode=mode, weight=0.1)


def batch(*, alpha: float | None = None, size: int = 2) -> dict[str, torch.Tensor]:
    """Latents with a gradient, alpha (constant, or opaque left and transparent right), noise and levels."""
    generator = torch.Generator().manual_seed(1)
    latents = 0.1 * torch.randn(size, Z, 2, 4, 6, generator=generator)
    matte = torch.zeros(size, 1, 5, 32, 48)
    matte[..., :24] = 1
    return {
        "latents": latents.requires_grad_(True),
        "alpha": matte if alpha is None else torch.full_like(matte, alpha),
        "noise": 0.3 * torch.randn(size, Z, 2, 4, 6, generator=generator),
        "sigma": torch.linspace(0.2, 0.9, size),
    }


def term(model: RGBAlphaVAE, transformer: WanTransformer3DModel, mode: str, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    rest = {name: parts[name] for name in ("alpha", "noise", "sigma")}
    return bidirectional_term(judge(transformer, mode), model, parts["latents"], **rest)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_transparent_cells_have_a_gradient_in_ours_and_none_in_reference(model, transformer, alpha) -> None:
    for mode, alive in (("ours", True), ("reference", False)):
        parts = batch(alpha=alpha)
        value = term(model, transformer, mode, parts)
        value.backward()
        assert bool((parts["latents"].grad != 0).all()) is alive
        assert (value < 0) if alive else (value == 0)


@pytest.mark.parametrize("mode", ["ours", "reference"])
def test_opaque_cells_have_a_gradient_in_both(model, transformer, mode) -> None:
    parts = batch(alpha=1.0)
    value = term(model, transformer, mode, parts)
    value.backward()
    assert value > 0
    assert parts["latents"].grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in transformer.parameters())


def test_ours_is_judged_on_normalised_latents_and_reference_on_raw_ones(model, transformer) -> None:
    parts = {name: value.detach() for name, value in batch().items()}
    mask = torch.ones(2, 1, 2, 4, 6)
    mask[..., 3:] = -1
    for mode, x0 in (("ours", (parts["latents"] - model.latents_mean) / model.latents_std), ("reference", parts["latents"])):
        x = noise_at(x0, parts["noise"], parts["sigma"])
        predicted = transformer(x, 1000 * parts["sigma"], torch.zeros(2, 3, 8), return_dict=False)[0]
        expected = bidirectional_loss(predicted, velocity(x0, parts["noise"]), mask, bell_weight(parts["sigma"]), mode=mode)
        torch.testing.assert_close(term(model, transformer, mode, parts), expected)


def test_boundary_cells_are_left_out_in_every_frame_and_codec_noise_changes_nothing(model, transformer) -> None:
    parts = batch(alpha=0.0)
    parts["alpha"][..., ::2] = 1  # every cell is mixed
    assert term(model, transformer, "ours", parts) == 0
    noisy = batch(alpha=0.0)
    noisy["alpha"] += 3 / 255
    torch.testing.assert_close(term(model, transformer, "ours", noisy), term(model, transformer, "ours", batch(alpha=0.0)))


@pytest.mark.parametrize("mode", ["ours", "reference"])
def test_samples_of_a_batch_do_not_mix(model, transformer, mode) -> None:
    """Any batch size, one level per sample: the mean over samples of what each gives alone."""
    parts = batch(size=3)
    alone = [term(model, transformer, mode, {name: value[i : i + 1] for name, value in parts.items()}) for i in range(3)]
    torch.testing.assert_close(term(model, transformer, mode, parts), torch.stack(alone).mean(), rtol=1e-4, atol=1e-6)


def test_levels() -> None:
    draws = {
        mode: torch.cat([judge_sigma(mode, generator=torch.Generator().manual_seed(i)) for i in range(200)])
        for mode in ("ours", "reference")
    }
    steps = {mode: (draw / (5 - 4 * draw) * 1000) for mode, draw in draws.items()}  # the shift of 5 undone
    assert (steps["reference"] - steps["reference"].round()).abs().max() < 0.02
    assert (steps["ours"] - steps["ours"].round()).abs().max() > 0.4
    assert draws["ours"].median() > 0.7


def test_the_tiny_base_judges_itself_and_another_latent_space_is_refused() -> None:
    config = replace(recipes.get_recipe("tiny").train_vae, bidirectional="ours")
    found = load_judge(config, z_dim=16, device=torch.device("cpu"))
    assert found is not None
    assert found.context.shape[:2] == (1, config.max_sequence_length)
    assert found.weight == 0.1
    assert not any(parameter.requires_grad for parameter in found.transformer.parameters())
    assert any(role.startswith("judge transformer") for role in judge_weights(config))
    with pytest.raises(UsageError, match=r"--judge_model: got 16 latent channels, expected 48"):
        load_judge(config, z_dim=48, device=torch.device("cpu"))
    none = replace(config, bidirectional="none")
    assert load_judge(none, z_dim=48, device=torch.device("cpu")) is None
    assert judge_weights(none) == {}
