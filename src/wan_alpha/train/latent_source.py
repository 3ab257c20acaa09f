"""Where Stage 2's latents come from: a cache, or clips that are encoded while training (`--on_the_fly`).

A source hands over clips as workers can make them: latents already, or pixels and a colour. `Encoder` makes latents of either on
the training's device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.config import TrainDitConfig
from wan_alpha.data.clips import ClipDataset
from wan_alpha.data.latents import LatentCache
from wan_alpha.device import frozen_dtype, on_device
from wan_alpha.encoding import encode_clip
from wan_alpha.errors import UsageError
from wan_alpha.models.load import load_text_encoder, resolve_base
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.models.text import encode_prompts
from wan_alpha.objectives.transparency import gaussian_ellipse
from wan_alpha.rgba import RENDER_COLOURS


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceClip:
    """One clip: (latents (c, t, h, w), ellipse (t, h, w)) of a cache, or (rgb, alpha, colour) still to be encoded."""

    parts: tuple[Tensor, ...]
    latent_shape: tuple[int, int, int, int]
    prompt: str


class LatentSource(ABC):
    """Clips by number, with what a training must know of each."""

    def __init__(
        self,
        *,
        sizes: Sequence[Hashable],
        keys: Sequence[Hashable],
        prompts: Sequence[str],
        max_sequence_length: int,
        fingerprint: str,
    ) -> None:
        """sizes: clips of equal ones may share a batch. keys: equal for one clip under several captions."""
        self.sizes, self.keys, self.prompts = tuple(sizes), tuple(keys), tuple(prompts)
        self.max_sequence_length, self.fingerprint = max_sequence_length, fingerprint

    @abstractmethod
    def clip(self, i: int, *, draw: int, generator: torch.Generator) -> SourceClip:
        """Clip i; everything random about it follows from `draw` and the generator."""

    @abstractmethod
    def context(self, prompt: str) -> Float[Tensor, "L D"]:
        """Text embedding of a prompt of the source, or of ""."""


Encoder = Callable[[list[tuple[Tensor, ...]]], tuple[Tensor, Tensor]]
"""Parts of B clips of one size -> latents (B, c, t, h, w) and ellipses (B, 1, t, h, w) on the device."""


class CachedLatents(LatentSource):
    """Rows of a cache; each draw is as likely."""

    def __init__(self, cache: LatentCache) -> None:
        self._cache, index = cache, cache.index
        super().__init__(
            sizes=index.sizes,
            keys=index.clips,
            prompts=index.prompts,
            max_sequence_length=index.max_sequence_length,
            fingerprint=index.fingerprint,
        )

    def clip(self, i: int, *, draw: int, generator: torch.Generator) -> SourceClip:
        latents, gaussian = self._cache.draw(i, draw=int(torch.randint(self._cache.index.draws, (), generator=generator)))
        c, t, h, w = latents.shape
        return SourceClip(parts=(latents, gaussian), latent_shape=(c, t, h, w), prompt=self.prompts[i])

    def context(self, prompt: str) -> Float[Tensor, "L D"]:
        return self._cache.context(prompt)


class ClipsToEncode(LatentSource):
    """Clips of a dataset, a new window, crop and colour each time; texts are embedded beforehand."""

    def __init__(
        self, dataset: ClipDataset, *, contexts: dict[str, Tensor], z_dim: int, max_sequence_length: int, fingerprint: str
    ) -> None:
        """fingerprint: of the clips, their captions and what encodes both."""
        self._dataset, self._contexts, self._z_dim = dataset, contexts, z_dim
        super().__init__(
            sizes=dataset.sizes,
            keys=[(entry.rgba, entry.rgb, entry.alpha) for entry in dataset.entries],
            prompts=[entry.prompt for entry in dataset.entries],
            max_sequence_length=max_sequence_length,
            fingerprint=fingerprint,
        )

    def clip(self, i: int, *, draw: int, generator: torch.Generator) -> SourceClip:
        sample = self._dataset.sample(i, draw=draw)
        colour = RENDER_COLOURS[int(torch.randint(len(RENDER_COLOURS), (), generator=generator))]
        shape = (self._z_dim, *self._dataset.sizes[i].latent_shape)
        return SourceClip(parts=(sample.rgb, sample.alpha, colour), latent_shape=shape, prompt=self.prompts[i])

    def context(self, prompt: str) -> Float[Tensor, "L D"]:
        found = self._contexts[prompt].float()
        return torch.nn.functional.pad(found, (0, 0, 0, self.max_sequence_length - len(found)))


class Rows(LatentSource):
    """Some clips of a source, in this order."""

    def __init__(self, source: LatentSource, rows: Sequence[int]) -> None:
        self._source, self._rows = source, tuple(rows)
        super().__init__(
            sizes=[source.sizes[i] for i in rows],
            keys=[source.keys[i] for i in rows],
            prompts=[source.prompts[i] for i in rows],
            max_sequence_length=source.max_sequence_length,
            fingerprint=f"{source.fingerprint} {self._rows}",
        )

    def clip(self, i: int, *, draw: int, generator: torch.Generator) -> SourceClip:
        return self._source.clip(self._rows[i], draw=draw, generator=generator)

    def context(self, prompt: str) -> Float[Tensor, "L D"]:
        return self._source.context(prompt)


def hold_out(source: LatentSource, count: int) -> tuple[Rows, Rows]:
    """(the rest, the first `count` distinct clips under all their captions). UsageError when nothing is left to train on."""
    chosen = set(list(dict.fromkeys(source.keys))[:count])
    rows: tuple[list[int], list[int]] = [], []
    for i, key in enumerate(source.keys):
        rows[key in chosen].append(i)
    if not rows[0]:
        raise UsageError("--validation_clips", got=count, expected=f"fewer than the {len(chosen)} clips there are", do="hold out fewer")
    return Rows(source, rows[0]), Rows(source, rows[1])


def stack_latents(device: torch.device) -> Encoder:
    """The encoder of cached latents: they are there already."""

    def stack(clips: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        latents, gaussians = zip(*clips, strict=True)
        return on_device(torch.stack(latents), device=device), on_device(torch.stack(gaussians)[:, None], device=device)

    return stack


def clip_encoder(rgba_vae: RGBAlphaVAE, *, hard_threshold: float, device: torch.device) -> Encoder:
    """The encoder of clips: hard render on each one's colour, both encoders, merge block, normalised; and the matte's ellipse."""

    def encode(clips: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        stacked = [torch.stack(part) for part in zip(*clips, strict=True)]
        rgb, alpha, colour = (on_device(part, device=device) for part in stacked)
        latents = encode_clip(rgba_vae, rgb, alpha, colour=colour, hard_threshold=hard_threshold)
        gaussian = gaussian_ellipse(stacked[1])[:, None]  # many small sums, whose results decide what comes next: on the CPU
        return latents.float(), on_device(gaussian, device=device)

    return encode


def embed_prompts(config: TrainDitConfig, prompts: Sequence[str], *, device: torch.device) -> dict[str, Float[Tensor, "l D"]]:
    """Embeddings of these prompts and of "", on the CPU, each up to its last row that is not zero. The text encoder is dropped after."""
    dtype = frozen_dtype(config.precision, device=device)
    encoder, tokenizer = load_text_encoder(resolve_base(config), dtype=dtype, device=device)
    embedded = {}
    for prompt in sorted({*prompts, ""}):
        found = encode_prompts([prompt], encoder=encoder, tokenizer=tokenizer, max_sequence_length=config.max_sequence_length)[0]
        used = found.ne(0).any(dim=1).nonzero()
        embedded[prompt] = found[: int(used[-1]) + 1 if len(used) else 1].to("cpu", dtype)
    return embedded
