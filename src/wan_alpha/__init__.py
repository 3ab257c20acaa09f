"""Wan-Alpha: text to video with a transparent background.

The names below are loaded on first use, so that `import wan_alpha` costs nothing. Each stage is one function of one config:

    doctor.doctor(DoctorConfig)
    prepare.prepare(PrepareConfig)     train.vae.train(TrainVaeConfig)    cache.cache(CacheConfig)    train.dit.train(TrainDitConfig)
    generate.generate(GenerateConfig)  export.export(ExportConfig)        evaluate.evaluate(EvaluateConfig)
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "PrepareConfig": "wan_alpha.config",
    "TrainVaeConfig": "wan_alpha.config",
    "CacheConfig": "wan_alpha.config",
    "DoctorConfig": "wan_alpha.config",
    "TrainDitConfig": "wan_alpha.config",
    "GenerateConfig": "wan_alpha.config",
    "ExportConfig": "wan_alpha.config",
    "EvaluateConfig": "wan_alpha.config",
    "ClipSize": "wan_alpha.geometry",
    "RGBAlphaVAE": "wan_alpha.models.rgba_vae",
    "WanAlphaError": "wan_alpha.errors",
    "WanAlphaPipeline": "wan_alpha.pipeline",
    "get_recipe": "wan_alpha.recipes",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'wan_alpha' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
