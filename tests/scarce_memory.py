"""Memory that runs out at one place of a stage."""

from dataclasses import replace
from types import ModuleType

import pytest
import torch

from wan_alpha.config import TrainConfig
from wan_alpha.errors import UsageError


def line_where_memory_ends(stage: ModuleType, part: str, *, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the stage's training says when PART runs out."""

    def runs_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stage, part, runs_out)
    with pytest.raises(UsageError) as raised:
        stage.train(replace(config, output_path=config.output_path.with_name("out of memory")))
    return str(raised.value)


def advice(part: str, *, loading: str) -> str:
    """A pattern of what it should say: `loading` while networks load, then checkpointing."""
    return "training: .* --gradient_checkpointing" if part in ("log_forecast", "fit") else f"loading the networks: .* {loading}"
