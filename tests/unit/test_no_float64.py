"""The guard itself: it must let float32 work pass and stop float64 anywhere, also in a backward pass."""

import pytest
import torch

from no_float64 import refuse_float64


def test_float32_work_passes() -> None:
    weight = torch.ones(3, 3, requires_grad=True)
    with refuse_float64():
        x = torch.rand(2, 3) * 2.5 + torch.tensor(0.5) - 1e-3
        loss = torch.nn.functional.mse_loss(x @ weight, x.bfloat16().float()).sqrt()
        loss.backward()
        torch.optim.AdamW([weight]).step()
    assert weight.grad is not None


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.rand(2).double(),
        lambda: torch.zeros(2, dtype=torch.float64),
        lambda: torch.tensor([0.5, 1.0], dtype=torch.float64) + 1,
        lambda: torch.linspace(0, 1, 3, dtype=torch.float64),
        lambda: torch.view_as_complex(torch.rand(2, 2).double()),
    ],
)
def test_float64_is_stopped(work) -> None:
    with refuse_float64(), pytest.raises(TypeError, match="float64"):
        work()


def test_float64_in_a_backward_pass_is_stopped() -> None:
    class Doubles(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return (gradient.double() * 2).float()

    x = torch.ones(2, requires_grad=True)
    with refuse_float64(), pytest.raises(TypeError, match="float64"):
        Doubles.apply(x).sum().backward()


def test_the_rotary_table_of_diffusers_is_the_exception() -> None:
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    with refuse_float64():
        table = WanRotaryPosEmbed(16, (1, 2, 2), 32)
        cos, _ = table(torch.zeros(1, 4, 2, 4, 4))
    assert cos.dtype is torch.float32
