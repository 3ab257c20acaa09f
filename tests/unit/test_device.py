"""Device and dtype, on machines with and without accelerators."""

import pytest
import torch

from wan_alpha.device import autocast_dtype, choose_device, frozen_dtype
from wan_alpha.errors import UsageError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend which accelerators are there."""

    def has(*kinds: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or "bf16" in kinds)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
        monkeypatch.delenv("LOCAL_RANK", raising=False)

    return has


@pytest.mark.parametrize(("kinds", "chosen"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("cuda", "mps"), "cuda")])
def test_auto_takes_cuda_then_mps_then_cpu(kinds: tuple[str, ...], chosen: str, machine) -> None:
    machine(*kinds)
    assert choose_device() == torch.device(chosen)
    assert choose_device("cpu") == torch.device("cpu")


def test_an_absent_device_is_a_clear_error(machine) -> None:
    machine("mps")
    with pytest.raises(UsageError, match="--device cuda: got a machine without it, expected one of auto, mps, cpu; use --device auto"):
        choose_device("cuda")


def test_each_process_takes_its_own_card(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("cuda")
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for rank, card in (("3", 3), ("5", 1)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert choose_device("auto") == torch.device("cuda", card) == current.pop()
    assert choose_device("cpu") == torch.device("cpu")


def test_frozen_weights_are_bfloat16_only_where_it_is_fast(machine) -> None:
    machine("cuda", "bf16")
    assert frozen_dtype(device=torch.device("cuda")) is torch.bfloat16
    assert frozen_dtype(device=torch.device("cpu")) is torch.float32
    assert frozen_dtype(device=torch.device("mps")) is torch.float32
    assert frozen_dtype("float32", device=torch.device("cuda")) is torch.float32
    assert frozen_dtype("bfloat16", device=torch.device("cpu")) is torch.bfloat16
    machine("cuda")
    assert frozen_dtype(device=torch.device("cuda")) is torch.float32


@pytest.mark.parametrize(
    ("capabilities", "dtype"), [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({}, torch.float32)]
)
def test_training_steps_use_bfloat16_on_a_cpu_that_has_it(
    capabilities: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert autocast_dtype("auto", device=torch.device("cpu")) == dtype
    assert autocast_dtype("float32", device=torch.device("cpu")) == torch.float32
