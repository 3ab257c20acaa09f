"""The configs: every field has help, nothing can be changed in place, no torch is needed."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wan_alpha import config
from wan_alpha.errors import UsageError

SOURCE = "\n".join(path.read_text() for path in sorted(Path(str(config.__file__)).parent.glob("*.py")))
CONFIGS = [value for value in vars(config).values() if dataclasses.is_dataclass(value)]


def test_every_field_has_help() -> None:
    bare = [
        f"{body.name}.{field.target.id}"
        for body in ast.parse(SOURCE).body
        if isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, [*body.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str))
    ]
    assert bare == []


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_config_is_complete_frozen_and_keyword_only(kind: type) -> None:
    made = kind()
    field = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, field, None)
    with pytest.raises(TypeError):
        kind(None)
    assert dataclasses.replace(made) == made


@pytest.mark.parametrize("number", [float("inf"), float("nan"), float("-inf")])
def test_numbers_are_finite(number: float) -> None:
    for made in (lambda: config.PrepareConfig(fps=number), lambda: config.ExportConfig(fps=number)):
        with pytest.raises(UsageError, match=r"--fps: got .*, expected a finite number"):
            made()


def test_frame_rates_are_within_reason() -> None:
    """1e9 would make more frames than memory holds, 1e-5 is no rate that a container can state."""
    for number, bound in ((1e9, "at most 10000"), (1e-5, "at least 0.01")):
        with pytest.raises(UsageError, match=f"--fps: got .*, expected {bound}"):
            config.PrepareConfig(fps=number)


def test_seeds_are_those_that_generators_take() -> None:
    assert config.GenerateConfig(seed=2**64 - 1).seed == 2**64 - 1
    with pytest.raises(UsageError, match="--seed: got 18446744073709551616, expected at most 18446744073709551615"):
        config.GenerateConfig(seed=2**64)


@pytest.mark.parametrize(
    ("kind", "name", "least", "most"),
    [
        (config.PrepareConfig, "synthetic", 0, 1_000_000),
        (config.PrepareConfig, "num_workers", 0, 1024),
        (config.DoctorConfig, "caption_retries", 0, 1000),
        (config.DoctorConfig, "caption_timeout_s", 0.001, 100_000.0),
        (config.GenerateConfig, "num_inference_steps", 0, 10_000),
        (config.GenerateConfig, "max_sequence_length", 1, 65_536),
        (config.ExportConfig, "webp_quality", 0, 100),
        (config.PreviewConfig, "frames", 1, 1000),
        (config.PreviewConfig, "max_rows", 1, 1000),
        (config.PreviewConfig, "max_side", 16, 16384),
    ],
)
def test_counts_and_sizes_are_within_reason(kind: type, name: str, least: float, most: float) -> None:
    for number in (least, most):
        assert getattr(kind(**{name: number}), name) == number
    with pytest.raises(UsageError, match=f"--{name}: got .*, expected at most {most:.0f}"):
        kind(**{name: most + 1})
    with pytest.raises(UsageError, match=f"--{name}: got -.*, expected (at least|above) "):
        kind(**{name: -most})


def test_importing_the_configs_and_recipes_needs_no_torch() -> None:
    modules = "wan_alpha.config, wan_alpha.geometry, wan_alpha.recipes, wan_alpha.run_record"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_in_help_texts_are_flags() -> None:
    """A `--flag` that a field's help mentions exists."""
    known = {field.name for kind in CONFIGS for field in dataclasses.fields(kind)}
    assert set(re.findall(r"--(\w+)", SOURCE)) - known == set()
