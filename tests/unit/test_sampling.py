import pytest
import torch
from torch import Tensor

from wan_alpha.errors import UsageError
from wan_alpha.sampling import guided, make_scheduler, reference_model_sigmas, sample, sampling_sigmas

SHAPE = (2, 3, 2, 2, 3)


def gaussian_velocity(x: Tensor, sigma: Tensor, *, mean: float = 0.7, std: float = 0.4) -> Tensor:
    """E[noise - x0 | x] for data N(mean, std^2): the exact velocity of that flow."""
    sigma = sigma.view(-1, 1, 1, 1, 1)
    variance = (1 - sigma) ** 2 * std**2 + sigma**2
    z = (x - (1 - sigma) * mean) / variance
    return sigma * z - (mean + (1 - sigma) * std**2 * z)


def noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def error(sampler: str, steps: int) -> float:
    """Distance from the known end of the flow, mean + std * noise."""
    x = sample(gaussian_velocity, noise(), sigmas=sampling_sigmas(steps, shift=1.0), sampler=sampler)
    return (x - (0.7 + 0.4 * noise())).abs().max().item()


def test_levels_fall_from_one_to_exactly_zero() -> None:
    sigmas = sampling_sigmas(4, shift=5.0)
    assert sigmas.dtype == torch.float32
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    assert sigmas.tolist() == pytest.approx([1, 0.9375, 5 / 6, 0.625, 0], abs=2e-6)


def test_published_levels_and_whole_timesteps() -> None:
    sigmas = sampling_sigmas(4, shift=5.0, rule="reference")
    assert sigmas.tolist() == pytest.approx([0.99980, 0.93727, 0.83306, 0.62469, 0], abs=1e-5)
    assert (1000 * reference_model_sigmas(sigmas)).tolist() == pytest.approx([999, 937, 833, 624, 0], abs=1e-3)


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
@pytest.mark.parametrize("rule", ["shifted", "reference"])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_scheduler_has_our_levels_without_a_second_shift(sampler: str, rule: str, steps: int) -> None:
    sigmas = sampling_sigmas(steps, shift=5.0, rule=rule)
    assert torch.equal(make_scheduler(sampler, sigmas).sigmas, sigmas)


def test_levels_that_a_scheduler_would_change_are_refused() -> None:
    with pytest.raises(UsageError, match="sampling_sigmas"):
        make_scheduler("unipc", torch.tensor([1.0, 0.5, 0.0]))
    with pytest.raises(UsageError, match="final 0"):
        make_scheduler("euler", torch.tensor([0.9, 0.5, 0.1]))
    with pytest.raises(UsageError, match="num_inference_steps"):
        sampling_sigmas(0, shift=5.0)


def test_velocity_gets_float_sigma_per_sample_and_never_whole_timesteps() -> None:
    seen = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma)
        return torch.zeros_like(x)

    sigmas = sampling_sigmas(5, shift=3.0)
    sample(velocity, noise(), sigmas=sigmas)
    assert all(sigma.shape == (2,) and sigma.dtype == torch.float32 for sigma in seen)
    assert torch.equal(torch.stack(seen)[:, 0], sigmas[:-1])
    sample(velocity, noise(), sigmas=sigmas, model_sigmas=reference_model_sigmas(sigmas))
    assert torch.equal(torch.stack(seen[5:])[:, 1], reference_model_sigmas(sigmas)[:-1])


def test_one_euler_step_is_exact_at_constant_velocity() -> None:
    """x0 = noise - v: a reversed sigma or sign ends at noise + v."""
    x0 = torch.full(SHAPE, 0.3)
    end = sample(lambda x, sigma: noise() - x0, noise(), sigmas=torch.tensor([1.0, 0.0]), sampler="euler")
    torch.testing.assert_close(end, x0, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_linear_path_is_exact_for_any_steps(sampler: str) -> None:
    x0 = torch.full(SHAPE, 0.3)
    end = sample(lambda x, sigma: noise() - x0, noise(), sigmas=sampling_sigmas(3, shift=5.0), sampler=sampler)
    torch.testing.assert_close(end, x0, atol=2e-5, rtol=0)


def test_known_gaussian_flow_is_integrated() -> None:
    assert error("unipc", 20) < 0.01
    assert error("euler", 80) < 0.05


def test_unipc_is_of_second_order_and_euler_of_first() -> None:
    assert error("unipc", 10) < error("euler", 10) / 3
    assert 3.5 < error("euler", 40) / error("euler", 160) < 4.5
    assert error("unipc", 40) / error("unipc", 160) > 12


def test_samples_do_not_depend_on_their_batch() -> None:
    sigmas = sampling_sigmas(4, shift=5.0)
    both, alone = sample(gaussian_velocity, noise(), sigmas=sigmas), sample(gaussian_velocity, noise()[1:], sigmas=sigmas)
    torch.testing.assert_close(both[1:], alone)


def test_steps_are_reported_and_low_precision_velocity_is_accepted() -> None:
    steps = []
    end = sample(
        lambda x, sigma: x.bfloat16(), noise(), sigmas=sampling_sigmas(3, shift=1.0), sampler="euler", on_step=lambda i, x: steps.append(i)
    )
    assert steps == [0, 1, 2]
    assert end.dtype == torch.float32


def test_guidance() -> None:
    calls = []

    def constant(value: float):
        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            calls.append(value)
            return torch.full_like(x, value)

        return velocity

    x, sigma = noise(), torch.ones(2)
    assert guided(constant(3.0), constant(1.0), scale=2.5)(x, sigma).mean().item() == pytest.approx(1 + 2.5 * 2)
    calls.clear()
    assert guided(constant(3.0), constant(1.0), scale=1.0)(x, sigma).mean().item() == 3
    assert calls == [3.0]
