"""The latent cache on disk: one safetensors file per clip, one for the prompts, an index with a fingerprint.

    CACHE/index.json                 fingerprint, settings, clips in order
    CACHE/clips/00000.safetensors    latents (N, c, t, h, w) float32 and gaussian (N, t, h, w), the subject's ellipse, of N draws
                                     (a draw is a window of the clip and a background colour)
    CACHE/prompts.safetensors        text embeddings (L, D), one per distinct prompt; "" is always there

A clip's file appears whole or not at all, and the index comes last: an interrupted run continues where it stopped.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.files import read_metadata, read_tensors, write_tensors
from wan_alpha.errors import CacheError
from wan_alpha.media.atomic import beside

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """What a cache was made from. Two caches with equal fingerprints hold equal numbers."""

    fingerprint: str
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    clips: tuple[str, ...]
    """Fingerprint of each clip's file."""
    num_frames: int
    height: int
    width: int
    draws: int
    max_sequence_length: int
    merge_block: str
    """Hash of the merge block's tensors."""
    weights: dict[str, str]
    """Role of each file of weights -> its sha256."""
    format: int = FORMAT


class LatentCache:
    """Read access to a finished cache. Raises CacheError when the folder holds none, or one of another format."""

    def __init__(self, folder: Path) -> None:
        path = folder / "index.json"
        if not path.is_file():
            raise CacheError(folder, got="no index.json", expected="a finished cache", do=f"run: wan-alpha cache --output_path {folder}")
        try:
            found = json.loads(path.read_text())
            lists = {name: tuple(found[name]) for name in ("names", "prompts", "clips")}
            self.index = CacheIndex(**{**found, **lists})
        except (ValueError, TypeError, KeyError) as error:
            raise CacheError(path, got="an unreadable index", do=f"delete {folder} and run wan-alpha cache again") from error
        if self.index.format != FORMAT:
            raise CacheError(path, got=f"format {self.index.format}", expected=FORMAT, do="run wan-alpha cache again")
        stale = [i for i, mark in enumerate(self.index.clips) if clip_fingerprint(folder, i) != mark]
        if stale:
            raise CacheError(
                clip_path(folder, stale[0]), got=f"{len(stale)} clips missing or of another run", do="run wan-alpha cache again"
            )
        self.folder = folder
        self._prompts = read_tensors(folder / "prompts.safetensors")

    def __len__(self) -> int:
        return len(self.index.names)

    def draw(self, i: int, *, draw: int) -> tuple[Float[Tensor, "c t h w"], Float[Tensor, "t h w"]]:
        """One draw of clip i: normalised latents, and the Gaussian ellipse of its matte, 1 at the subject."""
        tensors = self._clip(i)
        return tensors["latents"][draw], tensors["gaussian"][draw]

    def context(self, prompt: str) -> Float[Tensor, "L D"]:
        """Text embedding of one of the cached prompts, or of ""."""
        return self._prompts[prompt_key(prompt)].float()

    def _clip(self, i: int) -> dict[str, Tensor]:
        return read_tensors(clip_path(self.folder, i))


def clip_path(folder: Path, i: int) -> Path:
    return folder / "clips" / f"{i:05d}.safetensors"


def clip_fingerprint(folder: Path, i: int) -> str | None:
    """What a clip's file was made from; None when there is no such file."""
    path = clip_path(folder, i)
    return read_metadata(path).get("fingerprint") if path.is_file() else None


def drop_index(folder: Path) -> None:
    """From here until write_index the cache is unfinished, and says so."""
    (folder / "index.json").unlink(missing_ok=True)


def prompt_key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def write_clip(folder: Path, i: int, *, latents: Float[Tensor, "N c t h w"], gaussian: Float[Tensor, "N t h w"], fingerprint: str) -> None:
    write_tensors(clip_path(folder, i), {"latents": latents.cpu(), "gaussian": gaussian.cpu()}, metadata={"fingerprint": fingerprint})


def write_prompts(folder: Path, embeddings: dict[str, Float[Tensor, "L D"]]) -> None:
    tensors = {prompt_key(prompt): embedding.cpu().contiguous() for prompt, embedding in embeddings.items()}
    write_tensors(folder / "prompts.safetensors", tensors, metadata={})


def write_index(folder: Path, index: CacheIndex) -> None:
    with beside(folder / "index.json") as partial:
        partial.write_text(json.dumps(asdict(index), indent=1))


def fingerprint(tensors: dict[str, Tensor], settings: dict[str, object]) -> str:
    """sha256 over tensors and settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
