"""The built wheel: it holds the tiny base, and what it installs in an empty environment generates a clip."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from wan_alpha import __version__

ROOT = Path(__file__).parents[2]
ASSETS_MAX_BYTES = 16 * 2**20
TINY = (
    "model_index.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
    "README.md",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no leftovers of the working tree enter it."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_wheel_holds_the_tiny_base_within_16_mib(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert [name for name in TINY if f"wan_alpha/assets/tiny/{name}" not in sizes] == []
    assert sum(size for name, size in sizes.items() if name.startswith("wan_alpha/assets/")) <= ASSETS_MAX_BYTES


def test_wheel_holds_every_module_and_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(next(name for name in names if name.endswith("METADATA"))).decode())
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert sources - names == set()
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    assert (metadata["Version"], metadata["License-Expression"]) == (__version__, "Apache-2.0")
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_installed_in_an_empty_environment_it_generates(wheel: Path, tmp_path: Path) -> None:
    """A new environment that sees this one's dependencies, but not this working tree: its own wan_alpha is the wheel's."""
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not followed from here
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)

    where = subprocess.run([python, "-I", "-c", "import wan_alpha; print(wan_alpha.__file__)"], capture_output=True, text=True, check=True)
    assert Path(where.stdout.strip()).is_relative_to(environment)

    command = [environment / "bin" / "wan-alpha", "generate", "a red disc", "--recipe", "tiny"]
    flags = ["--num_frames", "5", "--num_inference_steps", "2", "--guidance_scale", "1", "--output_path", tmp_path / "clip"]
    done = subprocess.run([*command, *flags], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clip" / "run.json").is_file()
    assert any(file.suffix in (".png", ".webp") for file in (tmp_path / "clip").rglob("*"))
