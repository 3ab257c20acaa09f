"""The public surface: a name appears or goes only together with a change here."""

import subprocess
import sys
import tomllib
from pathlib import Path

import wan_alpha

NAMES = [
    "CacheConfig",
    "ClipSize",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GenerateConfig",
    "PrepareConfig",
    "RGBAlphaVAE",
    "TrainDitConfig",
    "TrainVaeConfig",
    "WanAlphaError",
    "WanAlphaPipeline",
    "get_recipe",
]


def test_names_are_these_and_at_most_fifteen() -> None:
    assert sorted(wan_alpha.__all__) == sorted(NAMES)
    assert len(NAMES) <= 15


def test_every_name_loads_and_carries_its_own_name() -> None:
    assert [getattr(wan_alpha, name).__name__ for name in NAMES] == NAMES
    assert set(NAMES) <= set(dir(wan_alpha))


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, wan_alpha; print(*[n for n in ('torch', 'diffusers', 'tyro', 'numpy') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(wan_alpha, "RGBAlphaVAEE")


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "wan_alpha.__version__"}
