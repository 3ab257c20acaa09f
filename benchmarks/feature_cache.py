"""One training step of Stage 1 with the encoder's features read from disk (--feature_draws) against one that encodes, same weights.

    python benchmarks/feature_cache.py --pixels 64       # CPU: a VAE a third as wide as Wan's
    python benchmarks/feature_cache.py --device cuda     # Wan's own size, 272 pixels, two clips, bfloat16 autocast

Both: the same loss, LoRA of both decoders, L1 and edge terms, backward, AdamW; both losses must be equal. The files are read from
the system's page cache, as in a training whose features fit memory. The last line is JSON; ratio = encoding / cached.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from timing import alternate
from vae_step import OBJECTIVE, make_batch, make_model, step_arguments

from wan_alpha.device import autocast_dtype
from wan_alpha.malloc import give_back_freed_tensors
from wan_alpha.train.feature_cache import FeatureCache, Features
from wan_alpha.train.vae import loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240, help="for the timed runs")
    args = step_arguments(parser)
    device, pixels, clips, base_dim = torch.device(args.device), args.pixels, args.batch_size, args.base_dim
    model = make_model(base_dim, rank=128, device=device)
    batch = make_batch(pixels=pixels, frames=args.frames, clips=clips, device=device)
    positions, arithmetic = list(range(clips)), autocast_dtype("auto", device=device)
    optimiser = torch.optim.AdamW(model.trainable_parameters(mode="merge+decoders").values(), lr=1e-6)

    def encode() -> Features:
        return model.features(*batch.encoder_input(hard_threshold=OBJECTIVE.reconstruction.hard_threshold))

    def loss_of(cache: FeatureCache | None) -> torch.Tensor:
        with torch.autocast(device.type, arithmetic, enabled=arithmetic != torch.float32):
            features = cache.features(positions, encode=encode, device=device) if cache else None
            return loss(model, batch, objective=OBJECTIVE, features=features)["total"]

    def step(cache: FeatureCache | None) -> None:
        loss_of(cache).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    give_back_freed_tensors(device.type)  # as train-vae does
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(folder=Path(folder), cycle=clips, dtype=arithmetic)
        loss_of(cache)
        difference = abs(loss_of(cache).item() / loss_of(None).item() - 1)
        if not difference < 1e-3:
            raise SystemExit(f"the losses differ by {difference:.2e}: nothing to compare")
        timed = alternate({"cached": lambda: step(cache), "encoding": lambda: step(None)}, seconds=args.seconds, device=device)
    size = {"pixels": pixels, "frames": args.frames, "batch_size": clips, "base_dim": base_dim, "device": str(device)}
    seconds = {f"{name}_seconds": round(value, 4) for name, value in timed.seconds.items()}
    ratio = round(timed.seconds["encoding"] / timed.seconds["cached"], 3)
    print(json.dumps({"ratio": ratio, **seconds, "difference": difference, "rounds": timed.rounds, **size}))


if __name__ == "__main__":
    main()
