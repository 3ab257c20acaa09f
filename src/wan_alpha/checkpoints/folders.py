"""Folders of weights that other tools read: their file names, and what their small JSON files say.

diffusers   pytorch_lora_weights.safetensors (diffusers' loader), adapter_model.safetensors + adapter_config.json (PEFT's loader),
            model_index.json, vae/ (base VAE), rgba_vae/ (what Stage 1 trained, in the published names)
ComfyUI     loras/, vae/ (two VAEs of the original layout, one per decoder), and a workflow; copied into ComfyUI/models
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wan_alpha.checkpoints.adapter import Adapter, parse_adapter
from wan_alpha.checkpoints.files import read_metadata, read_tensors
from wan_alpha.checkpoints.originals import dit_diffusers_name
from wan_alpha.errors import CheckpointError

DIFFUSERS_ADAPTER, PEFT_ADAPTER, PEFT_CONFIG = "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json"
STAGE1_FILE = Path("rgba_vae") / "diffusion_pytorch_model.safetensors"
COMFYUI_LORA = Path("loras") / "wan_alpha_2.1_rgba_lora.safetensors"
COMFYUI_VAES = {
    "rgb": Path("vae") / "wan_alpha_2.1_vae_rgb_channel.safetensors",
    "alpha": Path("vae") / "wan_alpha_2.1_vae_alpha_channel.safetensors",
}
COMFYUI_WORKFLOW = Path("wan_alpha_workflow.json")


def peft_config(adapter: Adapter) -> dict[str, object]:
    """What PEFT's loader needs: alpha equals r, since the scale is 1."""
    return {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "use_dora": adapter.kind == "dora",
        "target_modules": sorted(dit_diffusers_name(module) for module in adapter.layers),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def read_diffusers_adapter(folder: Path) -> Adapter:
    """A Stage-2 adapter from a folder of diffusers or PEFT, with their scale alpha / r folded into lora_B."""
    path = next(folder / name for name in (DIFFUSERS_ADAPTER, PEFT_ADAPTER) if (folder / name).is_file())
    metadata = read_metadata(path)
    settings: dict[str, object] = json.loads(metadata.pop("lora_adapter_metadata", "{}"))
    config = folder / PEFT_CONFIG
    if path.name == PEFT_ADAPTER and config.is_file():
        settings = json.loads(config.read_text(encoding="utf-8"))
    adapter = parse_adapter(read_tensors(path), source=str(path), metadata=metadata)
    return _scaled(adapter, {key.removeprefix("transformer."): value for key, value in settings.items()})


def _scaled(adapter: Adapter, settings: Mapping[str, object]) -> Adapter:
    patterns = [name for name in ("alpha_pattern", "rank_pattern") if settings.get(name)]
    if patterns or settings.get("use_rslora"):
        got = " and ".join(patterns or ["use_rslora"])
        raise CheckpointError(adapter.source, got=got, expected="one rank and one alpha for all layers")
    if "lora_alpha" not in settings or settings["lora_alpha"] == settings.get("r"):
        return adapter
    scale = float(str(settings["lora_alpha"])) / float(str(settings["r"]))
    return replace(adapter, layers={name: replace(layer, lora_B=layer.lora_B * scale) for name, layer in adapter.layers.items()})
