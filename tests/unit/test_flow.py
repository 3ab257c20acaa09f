import pytest
import torch

from wan_alpha.objectives import flow


def latents(seed: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, 3, 2, 5, generator=torch.Generator().manual_seed(seed))


def test_shift_by_hand() -> None:
    assert flow.shift_sigma(torch.tensor([0.0, 0.25, 0.5, 1.0]), shift=5.0).tolist() == pytest.approx([0, 0.625, 5 / 6, 1])
    assert flow.shift_sigma(torch.tensor([0.3]), shift=1.0).item() == pytest.approx(0.3)


@pytest.mark.parametrize(("density", "median"), [("uniform", 0.5), ("logit_normal", 0.5), ("table", 0.5)])
def test_sampled_sigmas(density: str, median: float) -> None:
    draws = [flow.sample_sigmas(4000, density=density, shift=5.0, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].dtype == torch.float32
    assert draws[0].min() >= 0
    assert draws[0].max() <= 1
    assert draws[0].median().item() == pytest.approx(5 * median / (1 + 4 * median), abs=0.02)


def test_logit_normal_is_narrower_than_uniform_and_table_draws_from_the_table() -> None:
    spread = {
        density: flow.sample_sigmas(4000, density=density, shift=1.0, generator=torch.Generator().manual_seed(0)).std().item()
        for density in ("uniform", "logit_normal")
    }
    assert spread["uniform"] == pytest.approx(12**-0.5, abs=0.01)
    assert spread["logit_normal"] == pytest.approx(0.208, abs=0.01)
    drawn = flow.sample_sigmas(64, density="table", shift=5.0, generator=torch.Generator().manual_seed(0))
    assert torch.isin(drawn, flow.reference_table()[0]).all()


def test_reference_levels_are_the_tables_after_bfloat16() -> None:
    """294 distinct levels are ever used (measured on the published code)."""
    drawn = flow.sample_sigmas(40_000, density="reference", shift=5.0, generator=torch.Generator().manual_seed(0))
    table = flow.sample_sigmas(40_000, density="table", shift=5.0, generator=torch.Generator().manual_seed(0))
    assert len(drawn.unique()) == 294
    assert torch.isin(drawn, flow.reference_table()[0]).all()
    assert 0 < (drawn - table).abs().max() <= 2**-9 + 1e-3, "half a step of bfloat16 below 1, and of the table"


def test_reference_table() -> None:
    sigmas, timesteps, weights = flow.reference_table()
    assert sigmas[[0, 250, 500, 750, 900, 999]].tolist() == pytest.approx([1, 0.9375, 0.8333, 0.625, 0.35714, 0.00498], abs=1e-4)
    assert timesteps[250].item() == pytest.approx(937.5)
    assert weights[[0, 100, 250, 500, 750, 900, 999]].tolist() == pytest.approx(
        [0, 0.1391, 0.3980, 1.0249, 1.9140, 1.8653, 0.0319], abs=1e-4
    )
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)


def test_bell_weight_is_continuous_and_never_negative() -> None:
    sigmas, _, weights = flow.reference_table()
    torch.testing.assert_close(flow.bell_weight(sigmas[::7]), weights[::7])
    assert (flow.bell_weight(torch.linspace(0, 1, 50)) >= 0).all()
    assert flow.bell_weight(torch.tensor([0.5])).item() == pytest.approx(2.0764, abs=1e-3)


def test_noising_ends_and_direction() -> None:
    """sigma 0 is data and sigma 1 is noise; a reversed sigma fails here."""
    x0, noise = latents(0), latents(1)
    x = flow.noise_at(x0, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(x[0], x0[0])
    assert torch.equal(x[1], noise[1])
    torch.testing.assert_close(flow.noise_at(x0, noise, torch.tensor([0.25, 0.25])), 0.75 * x0 + 0.25 * noise)


def test_velocity_is_the_derivative_of_the_path() -> None:
    x0, noise = latents(0), latents(1)
    a, b = torch.full((2,), 0.4), torch.full((2,), 0.6)
    slope = (flow.noise_at(x0, noise, b) - flow.noise_at(x0, noise, a)) / 0.2
    torch.testing.assert_close(slope, flow.velocity(x0, noise), atol=1e-5, rtol=1e-4)


def test_noise_shift_moves_the_outside_only() -> None:
    noise, gaussian = latents(1), torch.zeros(3, 2, 5)
    gaussian[:, 0, 1] = 1
    moved = flow.shift_noise(noise, gaussian, mu=0.05) - noise
    assert moved[..., 0, 1].abs().max() == 0
    assert moved[..., 1, :].flatten().tolist() == pytest.approx([0.05] * moved[..., 1, :].numel(), abs=1e-6)
    torch.testing.assert_close(flow.shift_noise(noise, gaussian.expand(2, 1, 3, 2, 5), mu=0.05), noise + moved)


def test_flow_loss_is_per_sample() -> None:
    target = latents(0)
    prediction = target.clone()
    prediction[1] += 2
    assert flow.flow_loss(prediction, target, torch.tensor([3.0, 0.5])).tolist() == pytest.approx([0, 2], abs=1e-5)
    assert flow.flow_loss(prediction.bfloat16(), target, torch.ones(2)).dtype == torch.float32


def test_bidirectional_loss_by_hand() -> None:
    target = torch.zeros(1, 1, 1, 1, 4)
    prediction = torch.tensor([0.5, 0.5, 0.5, 3.0]).view(1, 1, 1, 1, 4)
    mask, weight = torch.tensor([1.0, -1.0, 0.0, 1.0]).view(1, 1, 1, 1, 4), torch.tensor([2.0])
    assert flow.bidirectional_loss(prediction, target, mask, weight).item() == pytest.approx((0.5 - 0.5 + 0 + 1) / 4)
    assert flow.bidirectional_loss(prediction, target, mask, weight, mode="reference").item() == pytest.approx((0.5 + 0 + 0 + 1) / 4)


def test_negative_half_of_the_bidirectional_loss_is_alive_and_bounded() -> None:
    def gradient(error: float, mode: str) -> float:
        prediction = torch.full((1, 2, 1, 2, 2), error, requires_grad=True)
        mask = -torch.ones(1, 1, 1, 2, 2)
        flow.bidirectional_loss(prediction, torch.zeros_like(prediction), mask, torch.ones(1), mode=mode).backward()
        return prediction.grad.sum().item()

    assert gradient(0.5, "ours") == pytest.approx(-1.0)  # descent enlarges the error of a transparent cell
    assert gradient(2.0, "ours") == 0
    assert gradient(0.5, "reference") == 0
