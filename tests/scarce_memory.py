"""Memory that runs out at one place of a stage."""

from dataclasses import replace
from types import ModuleType

import pytest
import torch

from wan_alpha.config import TrainConfig
from wan_alpha.errors import UsageError


def expect_next_setting(stage: ModuleType, part: str, *, config: TrainConfig, loading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage's training says in one line what to change where PART runs out: `loading` while networks load, then checkpointing."""

    def runs_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stage, part, runs_out)
    message = "training: .* --gradient_checkpointing" if part in ("log_forecast", "fit") else f"loading the networks: .* {loading}"
    with pytest.raises(UsageError, match=message):
        stage.train(replace(config, output_path=config.output_path.with_name("out of memory")))
