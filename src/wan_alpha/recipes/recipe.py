"""What a recipe returns: one config per stage."""

from dataclasses import dataclass

from wan_alpha.config import (
    CacheConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    PrepareConfig,
    TrainDitConfig,
    TrainVaeConfig,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete configuration of the whole road; the fields are the stages in their order."""

    doctor: DoctorConfig
    prepare: PrepareConfig
    train_vae: TrainVaeConfig
    cache: CacheConfig
    train_dit: TrainDitConfig
    generate: GenerateConfig
    export: ExportConfig
    evaluate: EvaluateConfig
