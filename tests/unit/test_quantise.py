"""A quantised base: adapters on it, against the same adapter on its dequantised weights."""

import copy
import importlib.util
import sys

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from wan_alpha.errors import UsageError
from wan_alpha.models.dora import TARGETS, adapter_layers, inject_adapter
from wan_alpha.models.quantise import quantise

SIZES = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=10, freq_dim=8, ffn_dim=32, num_layers=1)


def base() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(**SIZES).requires_grad_(False)


def gradients(transformer: WanTransformer3DModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents, context = (torch.randn(shape, generator=generator) for shape in ((1, 4, 2, 4, 6), (1, 5, 10)))
    transformer(latents, torch.tensor([300.0]), context, return_dict=False)[0].square().sum().backward()
    return {name: parameter.grad for name, parameter in transformer.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("to", ["int8", "fp8"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dora_on_eight_bits_equals_dora_on_the_dequantised_weights(to: str) -> None:
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("needs torchao: pip install 'wan-alpha[quantized]'")
    quantised = quantise(base(), to=to)
    plain = base()
    for name, module in quantised.named_modules():
        if TARGETS.fullmatch(name):
            assert module.weight.dequantize().shape == module.weight.shape
            plain.get_submodule(name).weight.copy_(module.weight.dequantize())
    for model in (quantised, plain):
        inject_adapter(model, rank=2, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    assert len(adapter_layers(quantised)) == 10
    ours, expected = gradients(quantised), gradients(plain)
    assert len(ours) == 30
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4 * float(expected[name].abs().max()) + 1e-7)


@pytest.mark.parametrize(("to", "package"), [("int8", "torchao"), ("fp8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_missing_package_is_named(to: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (package, f"{package}.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"--base_quantization {to}: got no package {package}; pip install 'wan-alpha\[quantized\]'"):
        quantise(base(), to=to)


def test_none_changes_nothing() -> None:
    model = base()
    before = copy.deepcopy(model.state_dict())
    quantise(model, to="none")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
