"""Where a base model's parts are: the tiny base, a diffusers folder, Wan's original files, or the hub.

Nothing is loaded here. A part on the hub is fetched when it is first loaded, so a stage that needs the VAE alone fetches no DiT.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from wan_alpha.config import BaseSourceConfig
from wan_alpha.errors import CheckpointError, UsageError, did_you_mean

PartName = Literal["vae", "transformer", "text_encoder", "tokenizer"]
ORIGINAL_FILES: dict[PartName, str] = {
    "vae": "Wan2.1_VAE.pth",
    "transformer": "diffusion_pytorch_model*.safetensors",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "tokenizer": "google/umt5-xxl",
}
"""Names in the folders of Wan-AI/Wan2.1-T2V-1.3B and -14B."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One component: in `root` on disk, or in the hub's `repo` when root is None.

    diffusers layout: `path` is the component's folder. original layout: a file name or a pattern of shards (the tokenizer: a folder).
    """

    layout: Literal["diffusers", "original"]
    path: str
    root: Path | None
    repo: str | None = None

    @property
    def where(self) -> Path:
        """Its folder (diffusers, tokenizer) or the pattern of its files, on disk."""
        if self.root is None:
            raise CheckpointError(f"{self.repo}/{self.path}", got="a part on the hub", expected="a local one", do="fetch it first")
        return self.root / self.path

    def files(self) -> list[Path]:
        """Its weight files on disk, shards in order; an index file decides where there is one."""
        if self.layout == "original":
            return sorted(self.where.parent.glob(self.where.name))
        indices = sorted(self.where.glob("*.safetensors.index.json"))
        if indices:
            return sorted({self.where / name for name in json.loads(indices[0].read_text())["weight_map"].values()})
        for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):  # beside them may lie fp16 variants
            if (self.where / name).is_file():
                return [self.where / name]
        return sorted(self.where.glob("*.safetensors"))


@dataclass(frozen=True, kw_only=True)
class BaseSource:
    """A base model as a set of parts; a part it lacks is an error only when it is loaded."""

    name: str
    parts: dict[PartName, Part] = field(default_factory=dict)
    searched: tuple[str, ...] = ()

    def part(self, name: PartName) -> Part:
        """The part, fetched from the hub if it is there. Raises UsageError when the model has none."""
        if name not in self.parts:
            looked = ", ".join(self.searched) or self.name
            raise UsageError(f"{name} of {self.name}", got="none", expected=f"{name}/ or {ORIGINAL_FILES[name]}", do=f"looked in: {looked}")
        part = self.parts[name]
        if part.root is not None or part.repo is None:
            return part
        wanted = [f"{part.path}/*"] if part.layout == "diffusers" or name == "tokenizer" else [part.path]
        return replace(part, root=_from_hub(part.repo, wanted, put_in=self.searched))

    def weight_files(self) -> dict[str, list[Path]]:
        """Local weight files by part, for a run's record of hashes."""
        return {name: part.files() for name, part in self.parts.items() if part.root is not None and name != "tokenizer"}


def resolve_base(config: BaseSourceConfig) -> BaseSource:
    """Find the parts that a configuration names.

    Raises UsageError for a model that is neither here nor on the hub, naming every place that was looked at.
    """
    source = _from_patterns(config) if config.model_id_with_origin_paths else _from_name(config)
    if config.base_vae_path is None:
        return source
    return replace(source, parts={**source.parts, "vae": _replacement_vae(config.base_vae_path.expanduser())})


def tiny_folder() -> Path:
    """The tiny base that ships with the package."""
    return Path(str(resources.files("wan_alpha"))) / "assets" / "tiny"


def _from_name(config: BaseSourceConfig) -> BaseSource:
    name = config.model
    folders = [tiny_folder()] if name == "tiny" else [Path(name).expanduser(), config.models_folder / name]
    searched = tuple(str(folder) for folder in folders)
    for folder in folders:
        if folder.is_dir():
            parts = _parts_of_folder(folder)
            if not parts:
                expected = f"model_index.json with vae/, transformer/, ... or {', '.join(ORIGINAL_FILES.values())}"
                raise UsageError(folder, got="a folder without a Wan model", expected=expected)
            return BaseSource(name=name, parts=parts, searched=(str(folder),))
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ["tiny", *sorted(path.name for path in config.models_folder.glob("*") if path.is_dir())]
        raise UsageError(
            f"--model {name!r}", got="no such folder", expected="tiny, a folder, or a hub id ORG/NAME", do=did_you_mean(name, known)
        )
    snapshot = _from_hub(name, ["*.json"], put_in=searched[1:])
    if (snapshot / "model_index.json").is_file():
        parts = {part: Part(layout="diffusers", path=part, root=None, repo=name) for part in ORIGINAL_FILES}
    else:
        parts = {part: Part(layout="original", path=path, root=None, repo=name) for part, path in ORIGINAL_FILES.items()}
    return BaseSource(name=name, parts=parts, searched=searched[1:])


def _parts_of_folder(folder: Path) -> dict[PartName, Part]:
    parts: dict[PartName, Part] = {}
    for name, pattern in ORIGINAL_FILES.items():
        if (folder / name).is_dir() and (folder / "model_index.json").is_file():
            parts[name] = Part(layout="diffusers", path=name, root=folder)
        elif any(folder.glob(pattern)):
            parts[name] = Part(layout="original", path=pattern, root=folder)
    return parts


def _from_patterns(config: BaseSourceConfig) -> BaseSource:
    """'ID:PATTERN,ID:PATTERN'. A part without a pattern is looked for under its usual name beside the others."""
    pairs = list(_pairs(str(config.model_id_with_origin_paths)))
    parts: dict[PartName, Part] = {}
    searched: list[str] = []
    for repo, pattern in pairs:
        name = _part_of_pattern(pattern)
        if name in parts:
            raise UsageError("--model_id_with_origin_paths", got=f"two patterns for the {name}", expected="one")
        parts[name] = _locate(config, repo=repo, pattern=pattern, searched=searched)
    for repo in dict.fromkeys(repo for repo, _ in pairs):
        for name, pattern in ORIGINAL_FILES.items():
            folder = config.models_folder / repo
            if name not in parts and any(folder.glob(pattern)):
                parts[name] = Part(layout="original", path=pattern, root=folder)
    for name, pattern in ORIGINAL_FILES.items():  # named by no pattern and not here: fetched when it is loaded
        parts.setdefault(name, Part(layout="original", path=pattern, root=None, repo=pairs[0][0]))
    return BaseSource(name=pairs[0][0], parts=parts, searched=tuple(searched) or (str(config.models_folder / pairs[0][0]),))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for entry in text.split(","):
        repo, colon, pattern = entry.strip().partition(":")
        if not colon or not repo or not pattern:
            raise UsageError(
                "--model_id_with_origin_paths", got=repr(entry), expected="ID:PATTERN, such as Wan-AI/Wan2.1-T2V-1.3B:Wan2.1_VAE.pth"
            )
        yield repo, pattern.rstrip("/")


def _part_of_pattern(pattern: str) -> PartName:
    """Which component a file name of Wan's belongs to."""
    last = Path(pattern).name.lower()
    if "vae" in last:
        return "vae"
    if "t5" in last:
        return "text_encoder" if last.endswith((".pth", ".safetensors", ".bin")) else "tokenizer"
    if last.endswith((".safetensors", ".pth", ".bin")):
        return "transformer"
    raise UsageError("--model_id_with_origin_paths", got=repr(pattern), expected=f"a pattern such as {', '.join(ORIGINAL_FILES.values())}")


def _locate(config: BaseSourceConfig, *, repo: str, pattern: str, searched: list[str]) -> Part:
    """MODELS_FOLDER/ID/PATTERN, then the pattern's last name in MODELS_FOLDER, then the hub."""
    here = [(config.models_folder / repo, pattern), (config.models_folder, Path(pattern).name)]
    for folder, path in here:
        searched.append(str(folder / path))
        if any(folder.glob(path)):
            return Part(layout="original", path=path, root=folder)
    wanted = [f"{pattern}/*"] if _part_of_pattern(pattern) == "tokenizer" else [pattern]
    root = _from_hub(repo, wanted, put_in=tuple(str(folder / path) for folder, path in here))
    if not any(root.glob(pattern)):
        raise UsageError(
            f"{repo}:{pattern}",
            got="no such file on the hub",
            expected="a pattern that matches",
            do=f"looked in: {', '.join(searched)} and the hub",
        )
    return Part(layout="original", path=pattern, root=root)


def _replacement_vae(path: Path) -> Part:
    """--base_vae_path: a file of either layout, a diffusers vae folder, or a folder that holds one."""
    if path.is_file():
        return Part(layout="original", path=path.name, root=path.parent)
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")) and not any(path.glob(ORIGINAL_FILES["vae"])):
        return Part(layout="diffusers", path=".", root=path)
    parts = _parts_of_folder(path) if path.is_dir() else {}
    if "vae" not in parts:
        got = "a folder without a VAE" if path.is_dir() else "no such file"
        raise UsageError(f"--base_vae_path {path}", got=got, expected=f"{ORIGINAL_FILES['vae']}, safetensors, or a diffusers vae folder")
    return parts["vae"]


def _from_hub(repo: str, patterns: list[str], *, put_in: tuple[str, ...]) -> Path:
    """Folder of a snapshot with these files. Raises UsageError naming where to put them by hand when the hub gives none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    _LOG.info("fetching %s from the hub: %s", repo, ", ".join(patterns))
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except (OSError, ValueError, EntryNotFoundError) as error:  # no network, offline mode, no such repository, not allowed, not an id
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        places = " or ".join(put_in)
        raise UsageError(
            f"{repo} ({', '.join(patterns)})",
            got=f"nothing in {places}, and no answer from the hub ({reason})",
            do=f"put the files in {places}",
        ) from error
