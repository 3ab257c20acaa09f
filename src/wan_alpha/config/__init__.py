"""Every knob, as frozen dataclasses without torch. Field comments are the command line's help.

The flag names of the seed's commands (--dataset_base_path, --base_vae_path, --vae_lora_path, ...) are field names here.
A complete configuration comes from a recipe (wan_alpha.recipes); a command line changes single fields of it.
"""

from wan_alpha.config.common import (
    MAX_SEED,
    BaseModelConfig,
    BaseQuantization,
    BaseSourceConfig,
    ClipConfig,
    DatasetConfig,
    Device,
    Precision,
    ReadConfig,
    RunConfig,
)
from wan_alpha.config.files import LAYOUTS, ConvertConfig, InspectConfig, Layout
from wan_alpha.config.media import ExportConfig, PreviewConfig
from wan_alpha.config.prepare import DoctorConfig, PrepareConfig, SourceConfig
from wan_alpha.config.run import EvaluateConfig, GenerateConfig
from wan_alpha.config.train import CacheConfig, TrainConfig, TrainDitConfig, TrainVaeConfig

__all__ = [
    "LAYOUTS",
    "MAX_SEED",
    "BaseModelConfig",
    "BaseQuantization",
    "BaseSourceConfig",
    "CacheConfig",
    "ClipConfig",
    "ConvertConfig",
    "DatasetConfig",
    "Device",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GenerateConfig",
    "InspectConfig",
    "Layout",
    "Precision",
    "PrepareConfig",
    "PreviewConfig",
    "ReadConfig",
    "RunConfig",
    "SourceConfig",
    "TrainConfig",
    "TrainDitConfig",
    "TrainVaeConfig",
]
