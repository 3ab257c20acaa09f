"""DoRA: our forward against PEFT's, injection, state, loading and merging."""

import copy

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor

from no_float64 import refuse_float64
from wan_alpha.checkpoints.adapter import Adapter, LowRank, parse_adapter
from wan_alpha.checkpoints.originals import dit_original_name
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.dora import FastDora, adapter_layers, adapter_state, inject_adapter, load_adapter
from wan_alpha.models.merge import adapted_weight, merge_acceleration_lora, merge_adapter

SIZES = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=10, freq_dim=8, ffn_dim=32, num_layers=2)
INPUTS = ((2, 4, 2, 4, 6), (2, 5, 10))


@pytest.fixture(scope="module")
def blank() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(**SIZES).eval().requires_grad_(False)


@pytest.fixture
def base(blank: WanTransformer3DModel) -> WanTransformer3DModel:
    return copy.deepcopy(blank)


def run(transformer: WanTransformer3DModel, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, context = (torch.randn(shape, generator=generator).to(dtype) for shape in INPUTS)
    return transformer(latents, torch.tensor([300.0, 900.0]), context, return_dict=False)[0]


def perturb(transformer: WanTransformer3DModel) -> None:
    """Values as after training: B not zero, m not the norm of W."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if parameter.requires_grad:
                scale = 0.1 if "lora_B" in name else 0.05
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def gradients(transformer: WanTransformer3DModel, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    transformer.zero_grad()
    run(transformer, dtype).float().square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in transformer.named_parameters() if parameter.requires_grad}


def with_peft_forward(transformer: WanTransformer3DModel) -> WanTransformer3DModel:
    other = copy.deepcopy(transformer)
    for module in adapter_layers(other).values():
        module.lora_variant["default"] = DoraLinearVariant()
        module.cast_input_dtype_enabled = True
    return other


def adapter_of(transformer: WanTransformer3DModel) -> Adapter:
    state = {key: tensor.clone() for key, tensor in adapter_state(transformer).items()}
    return parse_adapter(state, source="adapter")


def test_values_and_gradients_are_those_of_peft(base: WanTransformer3DModel) -> None:
    perturb(inject_adapter(base, rank=3))
    peft = with_peft_forward(base)
    assert (run(base) - run(peft)).abs().max() < 1e-5
    ours, theirs = gradients(base), gradients(peft)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 3 * 20
    for name in ours:
        assert (ours[name] - theirs[name]).abs().max() <= 1e-5 * max(1.0, theirs[name].abs().max().item()), name


@pytest.mark.parametrize(("outputs", "inputs", "scaling", "bias"), [(5, 7, 1.0, True), (7, 5, 0.25, False)])
def test_one_layer_against_the_equation(outputs: int, inputs: int, scaling: float, bias: bool) -> None:
    """y = m (W + s B A) / ||W + s B A|| x + bias, written out in full."""
    weight, down, up = torch.randn(outputs, inputs), torch.randn(3, inputs), torch.randn(outputs, 3)
    adapted = weight + scaling * up @ down
    layer = torch.nn.Linear(inputs, outputs, bias=bias)
    model = torch.nn.ModuleDict({"layer": layer})
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=3 * scaling, use_dora=True, target_modules=["layer"]), model)
    module, magnitude = model["layer"], torch.rand(outputs) + 0.5
    module.lora_variant["default"] = FastDora()
    with torch.no_grad():
        layer.weight.copy_(weight)
        module.lora_A["default"].weight.copy_(down)
        module.lora_B["default"].weight.copy_(up)
        module.lora_magnitude_vector["default"].weight.copy_(magnitude)
    norm = FastDora().norm(layer, down, up, scaling=scaling)
    assert torch.allclose(norm, adapted.norm(dim=1), rtol=1e-5)
    x = torch.randn(2, 4, inputs)
    expected = x @ (magnitude[:, None] * adapted / norm[:, None]).T + (layer.bias if bias else 0)
    assert torch.allclose(module(x), expected, atol=1e-5)


def test_the_kept_norm_follows_every_change() -> None:
    """Of the base weight, of A and B in place, and of what an optimiser writes past autograd's version counter."""

    class Hidden(torch.optim.SGD):
        def step(self, closure=None):
            self.param_groups[0]["params"][0].data.add_(1.0)

    layer, down, up = torch.nn.Linear(6, 4), torch.randn(2, 6), torch.nn.Parameter(torch.randn(4, 2))
    variant = FastDora()

    def correct() -> bool:
        norm = variant.norm(layer, down, up, scaling=1.0)
        assert variant.norm(layer, down, up, scaling=1.0) is norm
        return torch.allclose(norm, (layer.weight + up @ down).norm(dim=1), rtol=1e-4)

    assert correct()
    for change in (lambda: layer.weight.mul_(2), lambda: down.add_(1), lambda: up.add_(1)):
        with torch.no_grad():
            change()
        assert correct()
    model = inject_adapter(WanTransformer3DModel(**SIZES), rank=1)  # from here on, optimiser steps are counted
    assert model is not None
    optimiser = Hidden([up], lr=1.0)
    optimiser.step()
    assert correct()


def kept_bytes(transformer: WanTransformer3DModel) -> int:
    """Of distinct storages, besides parameters, that autograd keeps for the backward pass."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            storages[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    parameters = {parameter.untyped_storage().data_ptr() for parameter in transformer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.manual_seed(0)
        transformer(torch.randn(1, 4, 4, 16, 16), torch.tensor([300.0]), torch.randn(1, 5, 10), return_dict=False)
    return sum(size for size, _ in storages.values())


def test_keeps_no_more_activations_than_lora(base: WanTransformer3DModel, blank: WanTransformer3DModel) -> None:
    torch.manual_seed(0)
    sizes = SIZES | dict(ffn_dim=140)  # Wan's ratio of 5.83
    dora, lora = (inject_adapter(WanTransformer3DModel(**sizes).requires_grad_(False), rank=2, kind=kind) for kind in ("dora", "lora"))
    bytes_of_peft, ours, of_lora = kept_bytes(with_peft_forward(dora)), kept_bytes(dora), kept_bytes(lora)
    assert ours <= 1.05 * of_lora
    assert bytes_of_peft > 1.2 * of_lora


@pytest.mark.parametrize("kind", ["dora", "lora"])
def test_a_new_adapter_changes_nothing_and_is_all_that_trains(base: WanTransformer3DModel, kind: str) -> None:
    before = run(base)
    inject_adapter(base, rank=3, kind=kind, generator=torch.Generator().manual_seed(0))
    assert (run(base) - before).abs().max() < 1e-5
    trainable = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert all(parameter.dtype == torch.float32 for parameter in base.parameters() if parameter.requires_grad)


def test_the_same_generator_gives_the_same_adapter(base: WanTransformer3DModel, blank: WanTransformer3DModel) -> None:
    other = copy.deepcopy(blank)
    states = [adapter_state(inject_adapter(model, rank=2, generator=torch.Generator().manual_seed(5))) for model in (base, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("kind", ["dora", "lora"])
def test_bfloat16_weights_and_checkpointing(base: WanTransformer3DModel, kind: str) -> None:
    """bfloat16 base, float32 adapter: gradients in float32, the same with activations recomputed, near those of a float32 base."""
    exact = copy.deepcopy(base)
    perturb(inject_adapter(exact, rank=3, kind=kind, generator=torch.Generator().manual_seed(0)))
    reference = gradients(exact)
    base.to(torch.bfloat16)
    perturb(inject_adapter(base, rank=3, kind=kind, generator=torch.Generator().manual_seed(0)))
    plain = gradients(base, torch.bfloat16)
    base.enable_gradient_checkpointing()
    base.train()
    recomputed = gradients(base, torch.bfloat16)
    assert len(plain) == (60 if kind == "dora" else 40)
    for name in plain:
        assert plain[name].dtype == torch.float32
        assert torch.equal(plain[name], recomputed[name]), name
    flat = [torch.cat([gradient.flatten() for gradient in found.values()]) for found in (plain, reference)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.99


def test_small_magnitude_changes_survive_bfloat16(base: WanTransformer3DModel) -> None:
    """A change of m by 0.1 % is below bfloat16's step at 1; the output still moves by about that much in the mean."""
    base.to(torch.bfloat16)
    inject_adapter(base, rank=2)
    module = next(iter(adapter_layers(base).values()))
    x = torch.randn(4000, 24, dtype=torch.bfloat16)
    with torch.no_grad():
        module.lora_magnitude_vector["default"].weight.mul_(1.05)  # at m / norm = 1 every product rounds back to where it was
        before = module(x).float()
        module.lora_magnitude_vector["default"].weight.mul_(1.001)
        change = module(x).float() - before
    without_bias = before - module.get_base_layer().bias.float()
    moved = (change * without_bias).sum() / without_bias.square().sum()
    assert 0.0008 < moved < 0.0012


def test_state_has_the_published_names_and_reloads(base: WanTransformer3DModel, blank: WanTransformer3DModel) -> None:
    perturb(inject_adapter(base, rank=3))
    state = adapter_state(base)
    assert list(state)[:3] == [
        "blocks.0.self_attn.q.lora_A.default.weight",
        "blocks.0.self_attn.q.lora_B.default.weight",
        "blocks.0.self_attn.q.lora_magnitude_vector.default.weight",
    ]
    assert {key.split(".lora_")[0] for key in state} == {
        f"blocks.{i}.{name}"
        for i in (0, 1)
        for name in (*(f"{kind}_attn.{x}" for kind in ("self", "cross") for x in "qkvo"), "ffn.0", "ffn.2")
    }
    other = load_adapter(copy.deepcopy(blank), adapter_of(base))
    assert torch.equal(run(other), run(base))
    third = inject_adapter(copy.deepcopy(blank), rank=3)
    assert torch.equal(run(load_adapter(third, adapter_of(base))), run(base))


def test_a_new_adapter_is_drawn_on_the_cpu(base: WanTransformer3DModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU's generator cannot fill an accelerator's tensors, where PEFT has put the parameters by then."""
    drawn = []
    kaiming = torch.nn.init.kaiming_uniform_
    monkeypatch.setattr(
        torch.nn.init, "kaiming_uniform_", lambda tensor, **given: drawn.append((tensor, given)) or kaiming(tensor, **given)
    )
    generator = torch.Generator().manual_seed(0)
    inject_adapter(base, rank=2, generator=generator)
    ours = [tensor for tensor, given in drawn if given.get("generator") is generator]
    parameters = [module.lora_A["default"].weight for module in adapter_layers(base).values()]
    assert len(ours) == len(parameters) == 20
    for tensor, parameter in zip(ours, parameters, strict=True):
        assert tensor.device.type == "cpu"
        assert tensor.data_ptr() != parameter.data_ptr()
        assert torch.equal(tensor, parameter)


def test_an_adapter_of_some_layers(base: WanTransformer3DModel, blank: WanTransformer3DModel) -> None:
    layer = LowRank(lora_A=torch.randn(2, 24), lora_B=torch.randn(24, 2), magnitude=None)
    adapter = Adapter(source="file", layers={"blocks.1.cross_attn.o": layer})
    load_adapter(base, adapter)
    assert list(adapter_layers(base)) == ["blocks.1.attn2.to_out.0"]
    assert torch.allclose(run(base), run(merge_adapter(copy.deepcopy(blank), adapter)), atol=1e-5)


@pytest.mark.parametrize("kind", ["dora", "lora"])
def test_merged_equals_injected(base: WanTransformer3DModel, blank: WanTransformer3DModel, kind: str) -> None:
    perturb(inject_adapter(base, rank=3, kind=kind))
    merged = merge_adapter(copy.deepcopy(blank), adapter_of(base))
    assert (run(merged) - run(base)).abs().max() < 2e-5
    assert merged.state_dict().keys() == blank.state_dict().keys()


def test_strength(base: WanTransformer3DModel, blank: WanTransformer3DModel) -> None:
    perturb(inject_adapter(base, rank=3))
    adapter = adapter_of(base)
    name, layer = next(iter(adapter.layers.items()))
    weight = blank.get_submodule("blocks.0.attn1.to_q").weight
    assert dit_original_name("blocks.0.attn1.to_q") == name
    assert torch.equal(adapted_weight(weight, layer, strength=0.0), weight)
    half = adapted_weight(weight, layer, strength=0.5)
    direction = weight + 0.5 * layer.lora_B @ layer.lora_A
    assert torch.allclose(half.norm(dim=1), (weight.norm(dim=1) + layer.magnitude) / 2, atol=1e-5)
    assert torch.allclose(torch.nn.functional.cosine_similarity(half, direction), torch.ones(len(half)), atol=1e-5)
    untouched = merge_adapter(copy.deepcopy(blank), adapter, strength=0.0)
    assert all(torch.equal(tensor, blank.state_dict()[key]) for key, tensor in untouched.state_dict().items())
    with pytest.raises(UsageError, match=r"--adapter_strength: got 1.5"):
        merge_adapter(untouched, adapter, strength=1.5)


def test_adapters_that_do_not_fit(base: WanTransformer3DModel) -> None:
    wrong_size = Adapter(
        source="file", layers={"blocks.0.ffn.0": LowRank(lora_A=torch.zeros(2, 5), lora_B=torch.zeros(32, 2), magnitude=None)}
    )
    no_such_layer = Adapter(
        source="file", layers={"blocks.9.ffn.0": LowRank(lora_A=torch.zeros(2, 24), lora_B=torch.zeros(32, 2), magnitude=None)}
    )
    for use in (load_adapter, merge_adapter):
        with pytest.raises(CheckpointError, match=r"blocks.0.ffn.0 for \(32, 5\), expected \(32, 24\)"):
            use(base, wrong_size)
        with pytest.raises(CheckpointError, match=r"layer blocks.9.ffn.0"):
            use(base, no_such_layer)
    with pytest.raises(UsageError, match="--dora_rank: got 0"):
        inject_adapter(base, rank=0)
    inject_adapter(base, rank=2)
    fits = adapter_of(base)
    with pytest.raises(UsageError, match="injected adapter"):
        merge_adapter(base, fits)
    with pytest.raises(UsageError, match="no adaptable layer"):
        inject_adapter(base, rank=2)
    del fits.layers["blocks.0.ffn.0"]
    with pytest.raises(CheckpointError, match="1 missing"):
        load_adapter(base, fits)


def test_acceleration_lora_changes_what_it_names(base: WanTransformer3DModel, blank: WanTransformer3DModel) -> None:
    down, up, diff = torch.randn(2, 24), torch.randn(32, 2), torch.randn(1, 6, 24)
    tensors = {
        "diffusion_model.blocks.0.ffn.0.lora_A.weight": down,
        "diffusion_model.blocks.0.ffn.0.lora_B.weight": up,
        "blocks.0.ffn.0.alpha": torch.tensor(1.0),
        "blocks.1.norm3.diff": torch.ones(24),
        "blocks.1.norm3.diff_b": torch.ones(24),
        "blocks.1.diff_m": diff,
        "head.diff_m": torch.ones(1, 2, 24),
    }
    merge_acceleration_lora(base, tensors)
    old, new = blank.state_dict(), base.state_dict()
    changes = {key: new[key] - old[key] for key in new if not torch.equal(new[key], old[key])}
    assert changes.keys() == {
        *(
            "blocks.0.ffn.net.0.proj.weight",
            "blocks.1.norm2.weight",
            "blocks.1.norm2.bias",
            "blocks.1.scale_shift_table",
            "scale_shift_table",
        )
    }
    assert torch.allclose(changes["blocks.0.ffn.net.0.proj.weight"], 0.5 * up @ down, atol=1e-5)
    assert torch.allclose(changes["blocks.1.scale_shift_table"], diff, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.0.ffn.0.lora_down.weight": (2, 24)}, "blocks.0.ffn.0.weight with down"),
        (
            {"blocks.0.ffn.0.lora_down.weight": (2, 24), "blocks.0.ffn.0.lora_up.weight": (32, 2), "blocks.0.ffn.0.diff": (32, 24)},
            "and diff",
        ),
        ({"blocks.0.ffn.0.diff_b": (24,)}, r"blocks.0.ffn.0.bias \(24,\), expected \(32,\)"),
        ({"blocks.7.ffn.0.diff_b": (32,)}, "expected a tensor of this model"),
        ({"img_emb.proj.0.diff_b": (32,)}, "img_emb"),
        ({"blocks.0.ffn.0.alpha": ()}, "alpha without a pair"),
        ({"blocks.0.ffn.0.weight": (32, 24)}, "with blocks.0.ffn.0.weight"),
    ],
)
def test_acceleration_lora_skips_nothing(base: WanTransformer3DModel, blank: WanTransformer3DModel, tensors: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        merge_acceleration_lora(
            base, {key: torch.ones(shape) for key, shape in tensors.items()} | {"blocks.0.norm3.diff_b": torch.ones(24)}
        )
    assert all(torch.equal(tensor, blank.state_dict()[key]) for key, tensor in base.state_dict().items())


def test_no_float64_forward_and_backward(base: WanTransformer3DModel) -> None:
    perturb(inject_adapter(base, rank=2))
    with refuse_float64():
        found = gradients(base)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("sizes", "modules", "parameters"),
    [
        (dict(num_attention_heads=40, ffn_dim=13824, num_layers=40), 400, 155_750_400),
        (dict(num_attention_heads=12, ffn_dim=8960, num_layers=30), 300, 44_428_800),
    ],
)
def test_real_sizes_on_the_meta_device(sizes: dict, modules: int, parameters: int) -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**sizes)
        inject_adapter(transformer, rank=32)
    state = adapter_state(transformer)
    assert (len(adapter_layers(transformer)), len(state)) == (modules, 3 * modules)
    assert sum(tensor.numel() for tensor in state.values()) == parameters
    assert sum(parameter.numel() for parameter in transformer.parameters() if parameter.requires_grad) == parameters
