"""Copy a file of weights in half precision, metadata included: python runs/halve.py SOURCE TARGET [RANK].

With RANK the low-rank factors of an adapter are cut to that rank first (the best one, by singular values).
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from wan_alpha.checkpoints.files import read_metadata, read_tensors, write_tensors


def cut(tensors: dict[str, Tensor], *, rank: int) -> dict[str, Tensor]:
    """Every pair lora_A (r, in), lora_B (out, r) replaced by the best pair of the given rank."""
    result = dict(tensors)
    for key in tensors:
        if ".lora_A." in key:
            partner = key.replace(".lora_A.", ".lora_B.")
            u, s, v = torch.linalg.svd(tensors[partner].float() @ tensors[key].float(), full_matrices=False)
            result[key], result[partner] = s[:rank, None].sqrt() * v[:rank], u[:, :rank] * s[:rank].sqrt()
    return result


def main() -> None:
    source, target, *rank = sys.argv[1:]
    tensors, metadata = read_tensors(Path(source)), read_metadata(Path(source))
    metadata = {key: value for key, value in metadata.items() if key != "format"}
    if rank:
        tensors, metadata["rank"] = cut(tensors, rank=int(rank[0])), rank[0]
    write_tensors(Path(target), {key: tensor.half() for key, tensor in tensors.items()}, metadata=metadata)


if __name__ == "__main__":
    main()
