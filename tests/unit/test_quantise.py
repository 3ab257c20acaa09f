"""A quantised base: adapters on it, against the same adapter on its dequantised weights."""

import copy
import importlib.util
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from wan_alpha.config import TrainDitConfig
from wan_alpha.errors import UsageError
from wan_alpha.models.dora import TARGETS, adapter_layers, inject_adapter
from wan_alpha.models.quantise import quantise, weight_bytes
from wan_alpha.train import dit
from wan_alpha.train.dit import build_transformer, forecast_memory, put_adapter
from wan_alpha.train.forecast import stored_bytes

CPU = torch.device("cpu")
PACKAGES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}
LOSS = {"int8": 0.02, "fp8": 0.05, "nf4": 0.15}
"""Largest relative error of a weight matrix."""
every_type = pytest.mark.parametrize("to", PACKAGES)
SIZES = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=10, freq_dim=8, ffn_dim=32, num_layers=1)


def base() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(**SIZES).requires_grad_(False)


def require_package(to: str) -> None:
    if importlib.util.find_spec(PACKAGES[to]) is None:
        pytest.skip(f"needs {PACKAGES[to]}: pip install 'wan-alpha[quantized]'")


def gradients(transformer: WanTransformer3DModel) -> dict[str, Tensor]:
    """With activations in the type of the weights that are not quantised."""
    generator, like = torch.Generator().manual_seed(1), transformer.patch_embedding.weight
    latents, context = (torch.randn(shape, generator=generator).to(like) for shape in ((1, 4, 2, 4, 6), (1, 5, 10)))
    transformer(latents, torch.tensor([300.0]), context, return_dict=False)[0].square().sum().backward()
    return {name: parameter.grad for name, parameter in transformer.named_parameters() if parameter.requires_grad}


@every_type
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_dora_on_a_quantised_base_equals_dora_on_the_dequantised_weights(to: str, checkpointing: bool) -> None:
    require_package(to)
    quantised, plain = with_adapters(to, dtype=torch.float32)
    for model in (quantised, plain):
        if checkpointing:
            model.enable_gradient_checkpointing()
    assert len(adapter_layers(quantised)) == 10
    ours, expected = gradients(quantised), gradients(plain)
    assert len(ours) == 30
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4 * float(expected[name].abs().max()) + 1e-7)


def test_bfloat16_activations_on_an_int8_base() -> None:
    """What a card trains with: float32 gradients as near to float32's own as bfloat16 activations on plain weights come."""
    require_package("int8")
    quantised, plain = with_adapters("int8", dtype=torch.bfloat16)
    exact = gradients(copy.deepcopy(plain).float())
    ours, rounded = gradients(quantised), gradients(plain)
    assert {gradient.dtype for gradient in ours.values()} == {torch.float32}
    for name, gradient in ours.items():
        error, of_plain = ((found - exact[name]).norm() / exact[name].norm() for found in (gradient, rounded[name]))
        assert error < max(2 * of_plain, 0.03), name


def with_adapters(to: str, *, dtype: torch.dtype) -> tuple[WanTransformer3DModel, WanTransformer3DModel]:
    """A quantised base and its dequantised weights in `dtype`, with the same DoRA, whose values are as after training."""
    quantised, plain = quantise(base().to(dtype), to=to, device=CPU), base().to(dtype)
    for name, module in quantised.named_modules():
        if TARGETS.fullmatch(name):
            weight, own = dequantize_module_weight(module), plain.get_submodule(name).weight
            assert weight.shape == own.shape
            assert 0 < (weight - own).norm() / own.norm() < LOSS[to]
            own.copy_(weight)
    for model in (quantised, plain):
        inject_adapter(model, rank=2, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return quantised, plain


@every_type
def test_weights_take_the_bytes_that_the_type_promises(to: str) -> None:
    """Of one layer, scales included."""
    require_package(to)
    model = WanTransformer3DModel(**SIZES | dict(attention_head_dim=128, ffn_dim=256)).requires_grad_(False)
    quantise(model, to=to, device=CPU)
    weight = model.blocks[0].ffn.net[2].weight
    scales = 32 * 256 if to != "nf4" else 8 * 256 * 256 / 64
    assert stored_bytes([weight]) == pytest.approx(weight_bytes(to, dtype=torch.float32) * 256 * 256, abs=scales)


def test_the_memory_forecast_of_an_nf4_base() -> None:
    """The bytes of four bits and their scales; the activations of the plain base."""
    require_package("nf4")
    sizes = SIZES | dict(in_channels=16, out_channels=16, attention_head_dim=128, ffn_dim=256)
    config = TrainDitConfig(height=32, width=48, num_frames=5, precision="float32", max_sequence_length=8, dora_rank=2)
    found = {}
    for to in ("none", "nf4"):
        transformer = WanTransformer3DModel(**sizes).requires_grad_(False)
        quantised = sum(module.weight.numel() for name, module in transformer.named_modules() if TARGETS.fullmatch(name))
        put_adapter(replace(config, base_quantization=to), transformer, device=CPU)
        found[to] = forecast_memory(config, transformer, device=torch.device("cuda"))
    bits = 8 * (found["nf4"].base - found["none"].base + 4 * quantised) / quantised
    assert bits == pytest.approx(4.127, abs=0.2)  # tables of 256 numbers weigh more on small layers
    assert found["nf4"].activations == found["none"].activations
    assert found["nf4"].trainables == found["none"].trainables


@every_type
def test_a_missing_package_is_named(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES[to]
    for name in (package, f"{package}.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"--base_quantization {to}: got no package {package}; pip install 'wan-alpha\[quantized\]'"):
        quantise(base(), to=to, device=CPU)


@every_type
def test_the_device_never_holds_the_base_unquantised(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins: the meta device for an accelerator, and for the packages what records where each layer was and where it went."""
    loaded, moved, meta = list[torch.device](), list[tuple[torch.device, torch.device]](), torch.device("meta")

    class Linear4bit(nn.Linear):
        def __init__(self, *sizes: int, bias: bool, device: str, **_: object) -> None:
            super().__init__(*sizes, bias=bias, device=device)

        def to(self, device: torch.device) -> nn.Module:
            moved.append((self.weight.device, device))
            return super().to(device)

    def quantize_(model: nn.Module, config: str, *, filter_fn, device: torch.device) -> None:
        for module in [module for name, module in model.named_modules() if filter_fn(module, name)]:
            moved.append((module.weight.device, device))
            module.to(device)

    bnb = SimpleNamespace(Linear4bit=Linear4bit, Params4bit=lambda data, quant_type, **how: nn.Parameter(data, **how))
    ao = {"Int8WeightOnlyConfig": str, "Float8WeightOnlyConfig": str, "quantize_": quantize_}
    for name, parts in (("bitsandbytes", {"nn": bnb}), ("torchao.quantization", ao)):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(parts)
    monkeypatch.setattr(dit, "load_transformer", lambda source, *, dtype, device: loaded.append(device) or base())
    monkeypatch.setattr(dit, "inject_adapter", lambda *_, **__: None)
    transformer = build_transformer(TrainDitConfig(base_quantization=to), device=meta)
    assert loaded == [CPU]
    assert moved == [(CPU, meta)] * 10
    assert {tensor.device for tensor in (*transformer.parameters(), *transformer.buffers())} == {meta}


def test_a_plain_base_is_loaded_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[torch.device] = []
    monkeypatch.setattr(dit, "load_transformer", lambda source, *, dtype, device: loaded.append(device) or base())
    build_transformer(TrainDitConfig(), device=torch.device("meta"))
    assert loaded == [torch.device("meta")]


def test_none_changes_nothing() -> None:
    model = base()
    before = copy.deepcopy(model.state_dict())
    quantise(model, to="none", device=CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
