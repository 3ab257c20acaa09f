"""The latent cache on disk: shards of clips, one file per prompt, an index with a fingerprint.

    CACHE/index.json                    fingerprint, settings, rows of the dataset in order
    CACHE/shards/00000.safetensors      for each of a few clips MARK.latents (N, c, t, h, w) float32 and MARK.gaussian (N, t, h, w),
                                        the subject's ellipse, of N draws (a draw is a window of the clip and a background colour)
    CACHE/prompts/KEY.safetensors       text embedding (l, D) up to the prompt's real end, once per distinct prompt; "" is always there

A MARK says what a clip was made from: its files, the VAE, the settings. Rows of the dataset with the same files share one mark.
Every file appears whole or not at all, and the index comes last: an interrupted run continues where it stopped.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.files import read_metadata, read_tensor, read_tensors, write_tensors
from wan_alpha.errors import CacheError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import beside

FORMAT = 3
CODE_VERSION = 1
"""Part of every mark: to be raised when the code makes other numbers from the same clip, VAE and settings."""


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """What a shard says of one clip."""

    mark: str
    source: tuple[int, int, int]
    """Frames, height and width of the files; zeros when they cannot be read."""
    size: tuple[int, int, int]
    """Frames, height and width at which the clip was encoded: its bucket."""
    skipped: str = ""
    """Why there are no tensors; empty when there are."""


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """What a cache was made from. Two caches with equal fingerprints hold equal numbers."""

    fingerprint: str
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    clips: tuple[str, ...]
    """Mark of each row's clip."""
    sizes: tuple[tuple[int, int, int], ...]
    """Frames, height and width of each row: its bucket."""
    num_frames: int
    height: int
    width: int
    """With num_frames: the size asked for, or with buckets the area and the longest clip."""
    buckets: str
    draws: int
    max_sequence_length: int
    merge_block: str
    """Hash of the merge block's tensors."""
    weights: dict[str, str]
    """Role of each file of weights -> its sha256."""
    command: str
    """The command that made it, and makes it again."""
    shards: int
    format: int = FORMAT
    code_version: int = CODE_VERSION

    def size(self, i: int) -> ClipSize:
        """Bucket of row i."""
        num_frames, height, width = self.sizes[i]
        return ClipSize(num_frames=num_frames, height=height, width=width)


class LatentCache:
    """Read access to a finished cache. Raises CacheError, with the command that rebuilds it, for a missing, stale or older one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, read_index(folder)
        marks = {record.mark: path for path in shard_paths(folder, self.index.shards) for record in read_shard_records(path)}
        lost = [mark for mark in self.index.clips if mark not in marks]
        if lost:
            raise CacheError(folder, got=f"{len(lost)} clips missing or of another run", do=f"run again: {self.index.command}")
        self._shard_of = marks

    def __len__(self) -> int:
        return len(self.index.names)

    def draw(self, i: int, *, draw: int) -> tuple[Float[Tensor, "c t h w"], Float[Tensor, "t h w"]]:
        """One draw of row i: normalised latents, and the Gaussian ellipse of its matte, 1 at the subject."""
        mark = self.index.clips[i]
        latents, gaussian = (read_tensor(self._shard_of[mark], f"{mark}.{part}", row=draw) for part in ("latents", "gaussian"))
        return latents, gaussian

    def context(self, prompt: str) -> Float[Tensor, "L D"]:
        """Text embedding of one of the cached prompts, or of "", with zeros after its real end, in float32."""
        path = prompt_path(self.folder, prompt)
        if not path.is_file():
            raise CacheError(path, got=f"no embedding of {prompt[:40]!r}", do=f"run again: {self.index.command}")
        embedding = read_tensors(path)["embedding"].float()
        return F.pad(embedding, (0, 0, 0, self.index.max_sequence_length - len(embedding)))

    def buckets(self) -> dict[ClipSize, list[int]]:
        """Rows by their size; a batch holds rows of one."""
        rows: dict[ClipSize, list[int]] = {}
        for i in range(len(self)):
            rows.setdefault(self.index.size(i), []).append(i)
        return rows


def read_index(folder: Path) -> CacheIndex:
    path = folder / "index.json"
    if not path.is_file():
        raise CacheError(folder, got="no index.json", expected="a finished cache", do=f"run: wan-alpha cache --output_path {folder}")
    try:
        found = json.loads(path.read_text())
        made_by = found.get("command") or f"wan-alpha cache --output_path {folder}"
        for name, current in (("format", FORMAT), ("code_version", CODE_VERSION)):
            if found.get(name) != current:
                raise CacheError(path, got=f"{name} {found.get(name)}", expected=current, do=f"rebuild: {made_by}")
        lists = {name: tuple(found[name]) for name in ("names", "prompts", "clips")}
        return CacheIndex(**{**found, **lists, "sizes": tuple(tuple(size) for size in found["sizes"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CacheError(path, got="an unreadable index", do=f"delete {folder} and run wan-alpha cache again") from error


def write_index(folder: Path, index: CacheIndex) -> None:
    """Finish the cache. Shards that an earlier, larger run left are removed first."""
    kept = set(shard_paths(folder, index.shards))
    for path in (folder / "shards").glob("*.safetensors"):
        if path not in kept:
            path.unlink()
    with beside(folder / "index.json") as partial:
        partial.write_text(json.dumps(asdict(index), indent=1))


def drop_index(folder: Path) -> None:
    """From here until write_index the cache is unfinished, and says so."""
    (folder / "index.json").unlink(missing_ok=True)


def shard_paths(folder: Path, count: int) -> list[Path]:
    return [folder / "shards" / f"{number:05d}.safetensors" for number in range(count)]


@dataclass(kw_only=True)
class Shard:
    """Tensors and records of the clips of one file, gathered before it is written."""

    records: list[ClipRecord] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def add(self, record: ClipRecord, *, latents: Float[Tensor, "N c t h w"], gaussian: Float[Tensor, "N t h w"]) -> None:
        self.records.append(record)
        self.tensors |= {f"{record.mark}.latents": latents.cpu(), f"{record.mark}.gaussian": gaussian.cpu()}

    def write(self, path: Path) -> None:
        write_tensors(path, self.tensors, metadata={"clips": json.dumps([asdict(record) for record in self.records])})


def read_shard_records(path: Path) -> list[ClipRecord]:
    """What a shard holds; nothing when there is no such file."""
    if not path.is_file():
        return []
    found = json.loads(read_metadata(path).get("clips", "[]"))
    return [ClipRecord(**{**record, "source": tuple(record["source"]), "size": tuple(record["size"])}) for record in found]


def prompt_path(folder: Path, prompt: str) -> Path:
    return folder / "prompts" / f"{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.safetensors"


def prompt_mark(folder: Path, prompt: str) -> str | None:
    """What a stored embedding was made from; None when there is none."""
    path = prompt_path(folder, prompt)
    return read_metadata(path).get("mark") if path.is_file() else None


def write_prompt(folder: Path, prompt: str, *, embedding: Float[Tensor, "L D"], mark: str) -> None:
    """Store the embedding up to the last row that is not zero."""
    used = embedding.ne(0).any(dim=1).nonzero()
    end = int(used[-1]) + 1 if len(used) else 1
    write_tensors(prompt_path(folder, prompt), {"embedding": embedding[:end].cpu().contiguous()}, metadata={"mark": mark})


def fingerprint(tensors: dict[str, Tensor], settings: dict[str, object]) -> str:
    """sha256 over tensors and settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
