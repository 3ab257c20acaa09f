"""ZeRO-2 by DeepSpeed: every process keeps a share of the gradients and of the optimiser's states, and updates that share of the weights.

The frozen base and, between steps, the trained weights are whole in every process, as are the average and the files: a state is
gathered before it is written, so that a run may go on with DeepSpeed or without, on any number of processes.
"""

import logging
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from jaxtyping import Float
from torch import Tensor, nn

from wan_alpha.config import TrainConfig
from wan_alpha.errors import UsageError
from wan_alpha.train.state import TrainState
from wan_alpha.train.step import Loss

log = logging.getLogger(__name__)

CONFIG = "runs/zero2.yaml"
BUCKET = 2**23
"""Gradients that wait to be sent, 32 MiB: DeepSpeed's own 500 million would take 2 GB, more than an adapter's optimiser."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each weight, besides the number of steps."""


class Zero2Update:
    """The step of train/step.py in shares: DeepSpeed's engine runs the loss, its backward pass and the optimiser that it is given.

    What the optimiser holds already, from a state that was loaded, is shared out with the weights. A step whose gradient is not
    finite is left out. Raises UsageError for what cannot be shared out so.
    """

    def __init__(self, config: TrainConfig, *, accelerator: Accelerator, state: TrainState, loss: Loss) -> None:
        plugin = accelerator.deepspeed_plugin
        require_zero2(config, plugin=plugin)
        self.accelerator, self.optimiser = accelerator, state.optimiser
        groups = self.optimiser.param_groups
        self.shapes = [[parameter.shape for parameter in group["params"]] for group in groups]
        loaded = [[self.optimiser.state.pop(parameter, {}) for parameter in group["params"]] for group in groups]
        plugin.deepspeed_config.update(engine_settings(config, given=plugin.deepspeed_config))
        self.engine, _ = accelerator.prepare(_Trained(state.trainables, loss=loss), self.optimiser)
        for group, states in zip(groups, loaded, strict=True):
            (share,) = group["params"]  # a process's part of the group's weights, one after the other
            if states[0]:
                parts = {name: self._part([held[name] for held in states], like=share) for name in MOMENTS}
                self.optimiser.state[share] = {"step": states[0]["step"], **parts}
        log.info("ZeRO-2: gradients and optimiser states are shared by %d processes", accelerator.num_processes)

    @property
    def loss(self) -> Loss:
        return self.engine

    def backward(self, total: Float[Tensor, ""]) -> None:
        self.engine.backward(total)

    def apply(self) -> Float[Tensor, ""]:
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm(), dtype=torch.float32, device=self.accelerator.device)

    def optimiser_state(self) -> dict[str, Any]:
        groups: list[dict[str, Any]] = []
        states: list[dict[str, Tensor]] = []
        for group, shapes in zip(self.optimiser.param_groups, self.shapes, strict=True):
            held = self.optimiser.state[group["params"][0]]
            moments = [self._whole(held[name], shapes=shapes) for name in MOMENTS]
            groups.append({**group, "params": list(range(len(states), len(states) + len(shapes)))})
            for pair in zip(*moments, strict=True):
                states.append({"step": held["step"].clone(), **dict(zip(MOMENTS, pair, strict=True))})
        return {"state": dict(enumerate(states)), "param_groups": groups}

    def _part(self, tensors: list[Tensor], *, like: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """This process's part of these tensors, one after the other, zeros behind the last."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        padded = nn.functional.pad(flat, (0, self.accelerator.num_processes * like.numel() - flat.numel()))
        return padded.narrow(0, self.accelerator.process_index * like.numel(), like.numel()).clone()

    def _whole(self, part: Float[Tensor, " n"], *, shapes: list[torch.Size]) -> list[Tensor]:
        """The tensors of which each process has such a part."""
        sizes = [shape.numel() for shape in shapes]
        flat = self.accelerator.gather(part).cpu()[: sum(sizes)]
        return [piece.view(shape) for piece, shape in zip(flat.split(sizes), shapes, strict=True)]


class _Trained(nn.Module):
    """What DeepSpeed takes for the model: the trained parameters, with the stage's loss as their forward pass."""

    def __init__(self, trainables: dict[str, nn.Parameter], *, loss: Loss) -> None:
        super().__init__()
        self.trained, self.loss = nn.ParameterList(trainables.values()), loss

    def forward(self, positions: list[int]) -> dict[str, Tensor]:
        return self.loss(positions)


def require_zero2(config: TrainConfig, *, plugin: DeepSpeedPlugin) -> None:
    """Raises UsageError unless the launcher's configuration asks for ZeRO-2 on the device, and each weight is updated by itself."""
    do = f"accelerate launch --config_file {CONFIG}"
    if plugin.zero_stage != 2:
        raise UsageError("DeepSpeed's zero_stage", got=plugin.zero_stage, expected="2: FSDP2 shares the frozen base out", do=do)
    if plugin.offload_optimizer_device not in (None, "none"):
        raise UsageError("DeepSpeed's offload_optimizer_device", got=plugin.offload_optimizer_device, expected="none", do=do)
    if config.optimiser != "adamw":
        do = "--optimiser adamw, or launch without DeepSpeed"
        raise UsageError(f"--optimiser {config.optimiser}", got="ZeRO-2", expected="adamw, which treats each weight by itself", do=do)


def engine_settings(config: TrainConfig, *, given: dict[str, Any]) -> dict[str, Any]:
    """DeepSpeed's own settings: those given, with batch, clipping and arithmetic as the trainer is configured.

    The trainer says when a step is due; shares follow the parameters' order.
    """
    zero = {"reduce_bucket_size": BUCKET, **given["zero_optimization"], "round_robin_gradients": False, "parameter_alignment": False}
    return {
        **given,
        "zero_optimization": zero,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
    }
