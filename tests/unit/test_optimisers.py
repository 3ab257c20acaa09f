import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from toy_training import run, toy_config
from wan_alpha.errors import UsageError
from wan_alpha.train.optimisers import make_optimiser

PACKAGES = {"adamw": "torch", "adafactor": "torch", "adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}


def configured(output_path, name, **settings):
    rate = 1.0 if name == "prodigy" else 0.1
    return toy_config(output_path, optimiser=name, learning_rate=rate, **settings)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("name", PACKAGES)
def test_two_plus_two_steps_are_four_steps_bitwise(tmp_path, name, ema_decay):
    if find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    if name == "schedule_free" and ema_decay is not None:
        pytest.skip("averages by itself, and says so (below)")
    config, weight, published = configured(tmp_path / "run", name, ema_decay=ema_decay), nn.Parameter(torch.ones(4)), []
    save = {"save": lambda epoch: published.append(weight.detach().clone()) or [], "weight": weight}
    whole = run(replace(config, output_path=tmp_path / "whole", save_every_epochs=100), **save)
    weight.data.fill_(1.0)
    run(replace(config, max_steps=2), **save)
    weight.data.fill_(7.0)
    assert torch.equal(run(replace(config, resume="latest"), **save), whole)
    assert torch.equal(published[0], published[-1])
    assert not torch.equal(whole, torch.ones(4))


def test_what_schedule_free_publishes_is_its_average(tmp_path):
    pytest.importorskip("schedulefree")
    weight, published = nn.Parameter(torch.ones(4)), []
    last = run(configured(tmp_path, "schedule_free"), weight=weight, save=lambda epoch: published.append(weight.detach().clone()) or [])
    assert not torch.equal(last, published[-1])


@pytest.mark.parametrize("name", ["adamw_8bit", "prodigy", "schedule_free"])
def test_a_missing_package_is_named_with_its_cure(tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(UsageError, match=rf"no package {PACKAGES[name]}; pip install 'wan-alpha\[optimisers\]'"):
        run(configured(tmp_path, name))


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_parameter_has_its_own_rate_and_the_configured_decay(name, tmp_path):
    trainables = {"slow": nn.Parameter(torch.ones(2)), "fast": nn.Parameter(torch.ones(2))}
    config = toy_config(tmp_path, optimiser=name, weight_decay=0.5)
    optimiser = make_optimiser(config, trainables=trainables, rate_factor=lambda name: 10.0 if name == "fast" else 1.0)
    assert [(group["factor"], group["weight_decay"], len(group["params"])) for group in optimiser.param_groups] == [
        (1.0, 0.5, 1),
        (10.0, 0.5, 1),
    ]


def test_settings_that_an_optimiser_cannot_use_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--learning_rate 1"):
        run(toy_config(tmp_path, optimiser="prodigy", learning_rate=1e-4))
    trainables = {"a": nn.Parameter(torch.ones(2)), "lora_b": nn.Parameter(torch.ones(2))}
    with pytest.raises(UsageError, match="two learning rates"):
        make_optimiser(configured(tmp_path, "prodigy"), trainables=trainables, rate_factor=lambda name: 2.0 if "lora_" in name else 1.0)
    with pytest.raises(UsageError, match="averages by itself"):
        run(configured(tmp_path, "schedule_free", ema_decay=0.9))
    with pytest.raises(UsageError, match="above 0 and below 1"):
        toy_config(tmp_path, ema_decay=1.0)
