"""Forward and backward of transformer blocks with plain LoRA, with PEFT's DoRA, and with ours, on the same frozen weights.

    python benchmarks/dora_step.py --tokens 1445                              # CPU: blocks of Wan2.1 1.3B, float32
    python benchmarks/dora_step.py --device cuda --size 832x480x81            # GPU: the whole 1.3B, bfloat16, checkpointed
    python benchmarks/dora_step.py --device cuda --model 14B --base_quantization int8 --size 512x512x17

Weights are random, of the real sizes. 1445 tokens are 272 x 272 x 17 pixels, 32760 are 832 x 480 x 81. The last line is JSON: ratio =
ours / LoRA and peft_ratio = PEFT's DoRA / LoRA in time, lower is better; kept_ratio and peft_kept_ratio the same for the bytes that
autograd keeps, on a GPU peak_gib besides. Values of both DoRA are compared before anything is timed.
"""

import argparse
import gc
import json
from collections.abc import Callable, Iterator

import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora.variants import DoraLinearVariant
from timing import alternate, peak_gib, saved_bytes
from torch import Tensor

from wan_alpha.models.dora import adapter_layers, inject_adapter
from wan_alpha.models.quantise import quantise

MODELS = {
    "1.3B": dict(num_attention_heads=12, ffn_dim=8960, num_layers=30),
    "14B": dict(num_attention_heads=40, ffn_dim=13824, num_layers=40),
}
TEXT_TOKENS, PATCH = 512, 2


def build(args: argparse.Namespace, *, kind: str) -> WanTransformer3DModel:
    """Random weights (the same for each kind), an adapter with B not zero; every block with gradients."""
    sizes = MODELS[args.model] | ({"num_layers": args.blocks} if args.blocks else {})
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(args.device):
        transformer = WanTransformer3DModel(**sizes).requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    quantise(transformer, to=args.base_quantization)
    inject_adapter(transformer, rank=args.rank, kind="lora" if kind == "lora" else "dora", generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for module in adapter_layers(transformer).values():
        up = module.lora_B["default"].weight
        with torch.no_grad():
            up.copy_(0.01 * torch.randn(up.shape, generator=generator))
        if kind == "peft":
            module.lora_variant["default"] = DoraLinearVariant()
            module.cast_input_dtype_enabled = True
    if args.device != "cpu":
        transformer.enable_gradient_checkpointing()
    return transformer.train()


def make_step(transformer: WanTransformer3DModel, shape: tuple[int, int, int]) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """(forward, forward and backward) on latents of this shape."""
    generator, like = torch.Generator().manual_seed(2), transformer.patch_embedding.weight
    latents, text = (torch.randn(size, generator=generator).to(like) for size in ((1, 16, *shape), (1, TEXT_TOKENS, 4096)))
    latents.requires_grad_()  # so that no block is spared its way back

    def forward() -> Tensor:
        return transformer(latents, torch.tensor([500.0], device=like.device), text, return_dict=False)[0]

    def step() -> None:
        forward().float().square().mean().backward()
        transformer.zero_grad(set_to_none=True)
        latents.grad = None

    return forward, step


def latent_shape(args: argparse.Namespace) -> tuple[int, int, int]:
    """(t, h, w) of a clip WIDTHxHEIGHTxFRAMES, or of a number of tokens: as near to a square as its divisors allow, in one frame."""
    if args.size:
        width, height, frames = map(int, args.size.split("x"))
        return (frames - 1) // 4 + 1, height // 8, width // 8
    side = max(d for d in range(1, int(args.tokens**0.5) + 1) if args.tokens % d == 0)
    return 1, side * PATCH, args.tokens // side * PATCH


def one_at_a_time(args: argparse.Namespace, shape: tuple[int, int, int]) -> Iterator[tuple[str, dict[str, float]]]:
    """On a GPU, where three models need not fit: seconds and peak memory of each alone."""
    for kind in ("lora", "peft", "ours"):
        _, step = make_step(build(args, kind=kind), shape)
        device = torch.device(args.device)
        seconds = alternate({kind: step}, seconds=args.seconds / 3, device=device)[kind]
        yield kind, {"seconds": seconds, "peak_gib": peak_gib(step, device=device) or 0.0}
        del step
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1445)
    parser.add_argument("--size", help="WIDTHxHEIGHTxFRAMES in place of --tokens")
    parser.add_argument("--model", choices=list(MODELS), default="1.3B")
    parser.add_argument("--blocks", type=int, help="default: 1 on a CPU, all on a GPU")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--base_quantization", choices=["none", "int8", "fp8", "nf4"], default="none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=300, help="for the timed runs")
    args = parser.parse_args()
    shape = latent_shape(args)
    size = {"model": args.model, "latents": shape, "rank": args.rank, "base": args.base_quantization, "device": args.device}
    if args.device != "cpu":
        found = dict(one_at_a_time(args, shape))
        ratios = {f"{name}ratio": found[kind]["seconds"] / found["lora"]["seconds"] for name, kind in (("", "ours"), ("peft_", "peft"))}
        print(json.dumps({**ratios, **{kind: values for kind, values in found.items()}, **size}))
        return
    args.blocks = args.blocks or 1
    steps, kept, values = {}, {}, {}
    for kind in ("lora", "peft", "ours"):
        forward, steps[kind] = make_step(build(args, kind=kind), shape)
        kept[kind] = saved_bytes(lambda kind=kind, forward=forward: values.update({kind: forward().detach()}))
    difference = float((values["ours"] - values["peft"]).norm() / values["peft"].norm())
    if not difference < 1e-4:
        raise SystemExit(f"ours and PEFT's DoRA differ by {difference:.2e}: nothing to compare")
    medians = alternate(steps, seconds=args.seconds, device=torch.device("cpu"))
    result = {
        "ratio": round(medians["ours"] / medians["lora"], 3),
        "peft_ratio": round(medians["peft"] / medians["lora"], 3),
        "kept_ratio": round(kept["ours"] / kept["lora"], 3),
        "peft_kept_ratio": round(kept["peft"] / kept["lora"], 3),
        **{f"{kind}_seconds": round(value, 4) for kind, value in medians.items()},
        "difference": difference,
        "blocks": args.blocks,
    }
    print(json.dumps({**result, **size}))


if __name__ == "__main__":
    main()
