"""Nothing in a training step waits for a card: batches leave from pinned memory, and a loss makes every tensor where its batch is.

No card is needed: copies to "cuda" are pretended, and the losses run on the meta device, which cannot give a number back.
"""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wan_alpha.config import TrainDitConfig, TrainVaeConfig
from wan_alpha.device import on_device
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae
from wan_alpha.objectives.reconstruction import ReconstructionSettings
from wan_alpha.train import dit, flow_data, latent_source, rgba_data, vae
from wan_alpha.train.judge import Judge, bidirectional_term

CARD, META, Z = torch.device("cuda"), torch.device("meta"), 4
SIZE = {"height": 32, "width": 48, "num_frames": 5, "batch_size": 2}


class PretendedCard(TorchFunctionMode):
    """Copies to a card go to the meta device; each is noted: was its source pinned, and was it not waited for?"""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[Tensor] = []
        self.copies: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.pin_memory:
            self.pinned.append(args[0].clone())
            return self.pinned[-1]
        if func in (Tensor.to, Tensor.cuda) and CARD in args:
            with torch._C.DisableTorchFunction():
                self.copies.append(any(args[0] is tensor for tensor in self.pinned) and bool((kwargs or {}).get("non_blocking")))
                return args[0].to(META)
        return func(*args, **(kwargs or {}))


class MadeElsewhere(TorchDispatchMode):
    """Names the operations whose results are not on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found += [str(func) for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and not leaf.is_meta]
        return result


@pytest.fixture(scope="module")
def model() -> RGBAlphaVAE:
    vae = AutoencoderKLWan(base_dim=4, z_dim=Z, num_res_blocks=1, latents_mean=[0.0] * Z, latents_std=[1.0] * Z)
    return build_rgba_vae(vae, rank=2).to(META)


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "ffn_dim": 16, "text_dim": 8, "freq_dim": 8}
    with META:
        return WanTransformer3DModel(in_channels=Z, out_channels=Z, rope_max_seq_len=32, **sizes)


def flow_samples(clip: tuple[Tensor, ...]) -> list[flow_data.FlowSample]:
    sample = flow_data.FlowSample(clip=clip, context=torch.ones(3, 8), noise=torch.ones(Z, 2, 4, 6), sigma=torch.tensor(0.5))
    return [sample, sample]


def test_a_batch_of_stage_1_leaves_from_pinned_memory() -> None:
    sample = rgba_data.empty_batch(TrainVaeConfig(**SIZE), z_dim=Z)
    with PretendedCard() as card:
        batch = rgba_data.to_batch([sample, sample], device=CARD)
    assert card.copies == [True] * len(fields(batch))


def test_a_batch_of_stage_2_leaves_from_pinned_memory() -> None:
    with PretendedCard() as card:
        cached = flow_data.to_batch(
            flow_samples((torch.ones(Z, 2, 4, 6), torch.ones(2, 4, 6))), encode=latent_source.stack_latents(CARD), device=CARD
        )
    assert card.copies == [True] * len(fields(cached))


def test_clips_encoded_on_the_fly_leave_from_pinned_memory(model) -> None:
    """The ellipse, which reads numbers out of its tensors, is found before it leaves."""
    matte = torch.zeros(1, 5, 32, 48)
    matte[..., 8:24, 8:30] = 1
    with PretendedCard() as card:
        encode = latent_source.clip_encoder(model, hard_threshold=0.1, device=CARD)
        batch = flow_data.to_batch(flow_samples((torch.ones(3, 5, 32, 48), matte, torch.ones(3))), encode=encode, device=CARD)
    assert all(getattr(batch, field.name).is_meta for field in fields(batch))
    assert card.copies == [True] * 7


def test_what_is_there_already_is_not_copied() -> None:
    tensor = torch.ones(3)
    assert on_device(tensor, device=torch.device("cpu")) is tensor


def test_the_loss_of_stage_1_stays_on_its_device(model, transformer) -> None:
    judge = Judge(transformer=transformer, context=torch.zeros(1, 3, 8, device=META), mode="ours", weight=0.1)
    objective = vae.VaeObjective(reconstruction=ReconstructionSettings(), perceptual_features=None, judge=judge)
    with META:
        batch = rgba_data.empty_batch(TrainVaeConfig(**SIZE), z_dim=Z)
    with MadeElsewhere() as elsewhere:
        assert vae.loss(model, batch, objective=objective)["bidirectional"].requires_grad
        judged = {"alpha": batch.alpha, "noise": batch.judge_noise, "sigma": batch.judge_sigma}
        bidirectional_term(replace(judge, mode="reference"), model, batch.judge_noise, **judged)
    assert elsewhere.found == []


def test_the_loss_of_stage_2_stays_on_its_device(transformer) -> None:
    with META:
        batch = flow_data.empty_batch(TrainDitConfig(**SIZE, max_sequence_length=3), channels=Z, text_dim=8)
    with MadeElsewhere() as elsewhere:
        dit.loss(transformer, batch, noise_shift=0.05, weighting="bsmntw", sigma_shift=5.0)["total"].backward()
    assert elsewhere.found == []
