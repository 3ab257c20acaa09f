"""Out of memory, in one line that names the setting to change next; and what a device has free."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from accelerate.utils import parse_flag_from_env

from wan_alpha.config import CacheConfig, EvaluateConfig, GenerateConfig, TrainConfig, TrainDitConfig, TrainVaeConfig
from wan_alpha.errors import UsageError
from wan_alpha.linux import stated_bytes

ALLOCATOR_MESSAGES = ("can't allocate memory", "not enough memory", "MPS backend out of memory")
"""torch has no exception of its own for a CPU and for MPS: these are in their allocators' RuntimeError."""
ANOTHER_DEVICE = "a device with more memory"

Moment = Literal["loading", "working"]
StageConfig = TrainConfig | CacheConfig | GenerateConfig | EvaluateConfig
"""Of the stages that load networks."""


@contextmanager
def out_of_memory_named(config: StageConfig, *, during: Moment = "working") -> Iterator[None]:
    """Turn an allocation that failed, on any device, into a UsageError with the next setting to change; other errors pass.

    during: what of a clip or a batch would save cannot help while networks are still loading.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _explained(config, during) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is an allocation that failed, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in ALLOCATOR_MESSAGES)


def free_bytes(device: torch.device) -> int | None:
    """What new tensors may take: of a card what the driver and torch's own cache have left, of a CPU Linux's MemAvailable; else None."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return stated_bytes("/proc/meminfo", "MemAvailable")


def next_setting(config: StageConfig) -> str:
    """The change that saves most for least: first what leaves results as they are, then a smaller base, a shorter clip, a smaller frame."""
    return next(_settings(config), ANOTHER_DEVICE)


def lighter_networks(config: StageConfig) -> str:
    """The change that makes networks smaller: no judge, half the bytes per weight, one at a time, fewer bits, then another base."""
    return next(_lighter(config), f"a smaller --model, or {ANOTHER_DEVICE}")


def _settings(config: StageConfig) -> Iterator[str]:
    if isinstance(config, TrainConfig):
        yield from _of_a_step(config)
    elif isinstance(config, GenerateConfig):
        yield from _one_at_a_time(config)
    if isinstance(config, EvaluateConfig) and config.predictions is not None:
        return  # compared at their own size, without a network
    if not isinstance(config, TrainConfig):
        yield from _smaller_passes(config)
    if isinstance(config, (TrainDitConfig, GenerateConfig)):
        yield from _fewer_bits(config)
    yield from _smaller_clips(config)


def _of_a_step(config: TrainConfig) -> Iterator[str]:
    """What leaves the training as it is."""
    if not config.gradient_checkpointing:
        piecewise = isinstance(config, TrainVaeConfig) and config.piecewise
        yield "--vae_passes whole --gradient_checkpointing" if piecewise else "add --gradient_checkpointing"
    if config.batch_size > 1:
        yield f"--batch_size {config.batch_size // 2} --gradient_accumulation_steps {config.gradient_accumulation_steps * 2}"
    if isinstance(config, TrainDitConfig) and not config.offload_activations and _on_a_card(config):
        yield "add --offload_activations"


def _one_at_a_time(config: GenerateConfig) -> Iterator[str]:
    if config.offload == "none" and _on_a_card(config):
        yield "--offload model"


def _smaller_passes(config: CacheConfig | GenerateConfig | EvaluateConfig) -> Iterator[str]:
    """Tiles are of decoding alone, which the cache does not do."""
    least = "chunked" if isinstance(config, CacheConfig) else "tiled"
    if config.vae_passes not in (least, "tiled"):
        yield f"--vae_passes {least}"


def _fewer_bits(config: TrainDitConfig | GenerateConfig) -> Iterator[str]:
    """FSDP2 cannot share a quantised base out."""
    if config.base_quantization != "nf4" and not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        yield f"--base_quantization {'int8' if config.base_quantization == 'none' else 'nf4'}"


def _smaller_clips(config: StageConfig) -> Iterator[str]:
    cached = isinstance(config, TrainDitConfig) and config.cache_path is not None and not config.on_the_fly
    remade = ", and a cache rebuilt for it, by the command that train-dit then names" if cached else ""
    if config.num_frames > 5:
        yield f"--num_frames {max(5, (config.num_frames - 1) // 8 * 4 + 1)}{remade}"
    smaller = [max(16, size * 3 // 4 // 16 * 16) for size in (config.height, config.width)]
    if smaller != [config.height, config.width]:
        yield f"--height {smaller[0]} --width {smaller[1]}{remade}"


def _lighter(config: StageConfig) -> Iterator[str]:
    if isinstance(config, TrainVaeConfig) and config.bidirectional != "none":
        yield "--bidirectional none"
    if isinstance(config, (TrainDitConfig, CacheConfig, GenerateConfig)) and not _in_bfloat16(config):
        yield "--precision bfloat16"
    if isinstance(config, GenerateConfig):
        yield from _one_at_a_time(config)
    if isinstance(config, (TrainDitConfig, GenerateConfig)) and _on_a_card(config):  # on a CPU the whole base is loaded all the same
        yield from _fewer_bits(config)


def _in_bfloat16(config: TrainDitConfig | CacheConfig | GenerateConfig) -> bool:
    by_itself = _on_a_card(config) and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.precision == "bfloat16" or (config.precision == "auto" and by_itself)


def _on_a_card(config: StageConfig) -> bool:
    """Whether the device's memory is another than the machine's."""
    return config.device in ("auto", "cuda") and torch.cuda.is_available()


def _explained(config: StageConfig, during: Moment) -> UsageError:
    if during == "loading":
        return UsageError("loading the networks", got="out of memory", do=f"try: {lighter_networks(config)}")
    return UsageError(_doing(config), got=f"out of memory with {_size(config)}", do=f"try: {next_setting(config)}")


def _doing(config: StageConfig) -> str:
    verbs = {CacheConfig: "caching", GenerateConfig: "generating", EvaluateConfig: "evaluating"}
    return verbs.get(type(config), "training")


def _size(config: StageConfig) -> str:
    if isinstance(config, EvaluateConfig) and config.predictions is not None:
        return f"the clips of {config.predictions}"
    batch = f"{config.batch_size} x " if isinstance(config, TrainConfig) else ""
    return f"{batch}{config.num_frames} frames of {config.width} x {config.height}"
