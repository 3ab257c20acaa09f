"""Forward and backward of transformer blocks with plain LoRA, with PEFT's DoRA, and with ours, on the same frozen weights.

    python benchmarks/dora_step.py --tokens 1445                              # CPU: blocks of Wan2.1 1.3B, float32
    python benchmarks/dora_step.py --device cuda --size 832x480x81            # GPU: the whole 1.3B, bfloat16, checkpointed
    python benchmarks/dora_step.py --device cuda --model 14B --base_quantization int8 --size 512x512x17

Weights are random, of the real sizes. 1445 tokens are 272 x 272 x 17 pixels, 32760 are 832 x 480 x 81. On a CPU attention, which is the
same in all three and grows with the square, would hide everything else at the largest sizes: there the tokens are cut into sequences of
one latent frame or so, each attending to itself, while every adapted layer still has all rows. That leaves out time that all share, so
the ratios are higher than a whole block's. The sequences share the 512 tokens of text. Where two rounds of all of them would not fit
--seconds, fewer run, and the output says so.

The last line is JSON: ratio = ours / LoRA and peft_ratio = PEFT's DoRA / LoRA in time, lower is better; kept_ratio and peft_kept_ratio
the same for the bytes that autograd keeps, peak_ratio and peft_peak_ratio for the most that are alive in forward and backward beside the
weights (of one sequence), on a GPU peak_gib; sequences and attended say how the tokens were cut, timed_sequences how many ran, rounds how
many were counted. Values of both DoRA are compared before anything is timed.
"""

import argparse
import gc
import json
import math
import time
from collections.abc import Callable, Mapping

import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora.variants import DoraLinearVariant
from timing import alternate, live_peak_bytes, peak_gib, saved_bytes
from torch import Tensor

from wan_alpha.models.dora import adapter_layers, inject_adapter
from wan_alpha.models.quantise import quantise

MODELS = {
    "1.3B": dict(num_attention_heads=12, ffn_dim=8960, num_layers=30),
    "14B": dict(num_attention_heads=40, ffn_dim=13824, num_layers=40),
}
TEXT_TOKENS, PATCH = 512, 2
ATTENDED = 8000
"""Up to here a CPU's tokens attend to each other; beyond, in sequences of at most SEQUENCE."""
SEQUENCE = 1600
"""One latent frame of 832 x 480 has 1560."""
ROUNDS = 2
"""That must fit on a CPU: one to warm up, one that counts."""
COMPARED = 1, 1, 32, 40
"""320 tokens, on which values are compared."""
KINDS = ("lora", "peft", "ours")


Shape = tuple[int, int, int, int]


def build(args: argparse.Namespace, *, kind: str) -> WanTransformer3DModel:
    """Random weights (the same for each kind), an adapter with B not zero; every block with gradients."""
    sizes = MODELS[args.model] | ({"num_layers": args.blocks} if args.blocks else {})
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(args.device):
        transformer = WanTransformer3DModel(**sizes).requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    quantise(transformer, to=args.base_quantization, device=torch.device(args.device))
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


def make_step(
    transformer: WanTransformer3DModel, shape: Shape, *, text_tokens: int = TEXT_TOKENS
) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """(forward, forward and backward) on latents of this shape."""
    generator, like = torch.Generator().manual_seed(2), transformer.patch_embedding.weight
    sequences, *size = shape
    sizes = (sequences, 16, *size), (sequences, text_tokens, 4096)
    latents, text = (torch.randn(size, generator=generator).to(like) for size in sizes)
    latents.requires_grad_()  # so that no block is spared its way back

    def forward() -> Tensor:
        return transformer(latents, torch.full((sequences,), 500.0, device=like.device), text, return_dict=False)[0]

    def step() -> None:
        forward().float().square().mean().backward()
        transformer.zero_grad(set_to_none=True)
        latents.grad = None

    return forward, step


def latent_shape(args: argparse.Namespace) -> Shape:
    """(sequences, t, h, w) of a clip WIDTHxHEIGHTxFRAMES, or of a number of tokens: as near to squares as its divisors allow."""
    if args.size:
        width, height, frames = map(int, args.size.split("x"))
        return 1, (frames - 1) // 4 + 1, height // 8, width // 8
    whole = args.device != "cpu" or args.tokens <= ATTENDED
    attended = args.tokens if whole else largest_divisor(args.tokens, at_most=SEQUENCE)
    side = largest_divisor(attended, at_most=math.isqrt(attended))
    return args.tokens // attended, 1, side * PATCH, attended // side * PATCH


def largest_divisor(number: int, *, at_most: int) -> int:
    return max(d for d in range(1, at_most + 1) if number % d == 0)


def alone(args: argparse.Namespace, shape: Shape) -> dict[str, object]:
    """On a GPU, where three models need not fit: seconds and peak memory of each alone."""
    found: dict[str, dict[str, float]] = {}
    for kind in args.kinds:
        _, step = make_step(build(args, kind=kind), shape)
        device = torch.device(args.device)
        timed = alternate({kind: step}, seconds=args.seconds / 3, device=device, warm_up=args.warm_up)
        found[kind] = {"seconds": timed.seconds[kind], "peak_gib": peak_gib(step, device=device) or 0.0, "rounds": timed.rounds}
        del step
        gc.collect()
        torch.cuda.empty_cache()
    return {**ratios({kind: values["seconds"] for kind, values in found.items()}, name="ratio"), **found}


def in_turn(args: argparse.Namespace, shape: Shape) -> dict[str, object]:
    """On a CPU: what autograd keeps and what lives at most, of one sequence, and alternating runs, all within --seconds."""
    ends = time.perf_counter() + args.seconds
    transformers = {kind: build(args, kind=kind) for kind in args.kinds}
    (asked, *one), kept, peak, seconds = shape, {}, {}, 0.0
    share = TEXT_TOKENS // asked
    for kind, transformer in transformers.items():
        forward, step = make_step(transformer, (1, *one), text_tokens=share)
        kept[kind] = saved_bytes(forward)
        began = time.perf_counter()
        peak[kind] = live_peak_bytes(step, present=[*transformer.parameters(), *transformer.buffers()])
        seconds += time.perf_counter() - began
    left = ends - time.perf_counter()
    sequences = min(asked, max(1, int(left / (ROUNDS * seconds))))
    if sequences < asked:
        print(
            f"{sequences} of {asked} sequences: {ROUNDS} rounds of all would take {ROUNDS * asked * seconds:.0f} s, and {left:.0f} are left"
        )
    steps = {kind: make_step(transformers[kind], (sequences, *one), text_tokens=share)[1] for kind in args.kinds}
    timed = alternate(steps, seconds=left, device=torch.device("cpu"), warm_up=args.warm_up)
    return {
        **ratios(timed.seconds, name="ratio"),
        **ratios(kept, name="kept_ratio"),
        **ratios(peak, name="peak_ratio"),
        **{f"{kind}_seconds": round(value, 4) for kind, value in timed.seconds.items()},
        "timed_sequences": sequences,
        "rounds": timed.rounds,
        "blocks": args.blocks,
    }


def ratios(values: Mapping[str, float], *, name: str) -> dict[str, float]:
    """Of ours and of PEFT's DoRA to LoRA."""
    prefix = {"ours": "", "peft": "peft_"}
    return {f"{prefix[kind]}{name}": round(value / values["lora"], 3) for kind, value in values.items() if kind in prefix}


def require_equal(args: argparse.Namespace) -> float:
    """Relative difference of both DoRA's outputs on few tokens."""
    values = [make_step(build(args, kind=kind), COMPARED)[0]().detach().float() for kind in ("ours", "peft")]
    difference = float((values[0] - values[1]).norm() / values[1].norm())
    if not difference < (1e-4 if args.device == "cpu" else 5e-2):
        raise SystemExit(f"ours and PEFT's DoRA differ by {difference:.2e}: nothing to compare")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1445)
    parser.add_argument("--size", help="WIDTHxHEIGHTxFRAMES in place of --tokens")
    parser.add_argument("--model", choices=list(MODELS), default="1.3B")
    parser.add_argument("--blocks", type=int, help="default: 1 on a CPU, all on a GPU")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--base_quantization", choices=["none", "int8", "fp8", "nf4"], default="none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=360, help="for the timed runs, on a CPU for all that is measured")
    parser.add_argument("--warm_up", type=int, default=1, help="rounds that do not count")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="PEFT's DoRA keeps more than twice what LoRA does")
    args = parser.parse_args()
    args.blocks = args.blocks or (1 if args.device == "cpu" else None)
    shape = latent_shape(args)
    difference = require_equal(args)
    found = (in_turn if args.device == "cpu" else alone)(args, shape)
    sequences, *latents = shape
    cut = {"sequences": sequences, "attended": math.prod(latents) // PATCH**2, "latents": latents}
    about = {"model": args.model, "rank": args.rank, "base": args.base_quantization, "device": args.device}
    print(json.dumps({**found, "difference": difference, **cut, **about}))


if __name__ == "__main__":
    main()
