"""Building the latent cache, by any number of processes: each encodes its share of the shards, the main one writes the index.

Every process works out the same plan from the dataset and the weights, so a finished file needs no message to be recognised: it
carries the marks that the plan expects (data/latents.py), whoever wrote it and in whichever run.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wan_alpha.checkpoints.files import read_tensors, sha256
from wan_alpha.config import CacheConfig
from wan_alpha.config.command import command
from wan_alpha.data import latents as disk
from wan_alpha.data.buckets import bucket_of
from wan_alpha.data.clips import ClipDataset
from wan_alpha.data.latents import CODE_VERSION, CacheIndex, ClipRecord, Shard, fingerprint
from wan_alpha.data.manifest import ClipEntry, read_manifest
from wan_alpha.data.shares import Share, heartbeat, this_share, wait_for
from wan_alpha.device import choose_device, frozen_dtype
from wan_alpha.encoding import encode_draw, encoder_tensors, load_rgba_vae, loaded_weights, merge_fingerprint
from wan_alpha.errors import CacheError, DatasetError, MediaError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import alone_in, beside
from wan_alpha.media.read import read_clip
from wan_alpha.memory import out_of_memory_named
from wan_alpha.models.load import load_text_encoder, load_tokenizer, resolve_base
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.models.text import check_lengths, encode_prompts
from wan_alpha.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a finished cache must hold, as every process works it out."""

    config: CacheConfig
    entries: tuple[ClipEntry, ...]
    marks: tuple[str, ...]
    """Of each entry's clip; entries with the same files have the same mark."""
    text_mark: str

    @property
    def folder(self) -> Path:
        return self.config.output_path

    @property
    def prompts(self) -> list[str]:
        return sorted({entry.prompt for entry in self.entries} | {""})

    @property
    def shards(self) -> list[tuple[Path, list[str]]]:
        """Files with the marks that each must hold."""
        distinct, size = list(dict.fromkeys(self.marks)), self.config.clips_per_shard
        groups = [distinct[first : first + size] for first in range(0, len(distinct), size)]
        return list(zip(disk.shard_paths(self.folder, len(groups)), groups, strict=True))

    @property
    def fingerprint(self) -> str:
        prompts = [entry.prompt for entry in self.entries]
        return fingerprint({}, {"clips": self.marks, "prompts": prompts, "text": self.text_mark})

    def entry(self, mark: str) -> ClipEntry:
        return self.entries[self.marks.index(mark)]

    def has_shard(self, path: Path, marks: Sequence[str]) -> bool:
        """Finished, and nothing left out that this run would not leave out."""
        records = disk.read_shard_records(path)
        accepted = self.config.on_bad_sample == "skip" or not any(record.skipped for record in records)
        return accepted and [record.mark for record in records] == list(marks)


def build_cache(config: CacheConfig) -> CacheIndex:
    """Encode every clip of the dataset into config.output_path; what an earlier run finished is kept.

    A clip is made anew when its files, the VAE or a setting changed. With RANK and WORLD_SIZE set, each process does its share and all
    return when the index is there. UsageError when another run works there, and with the next setting to change when memory runs out.
    """
    share, folder = this_share(), config.output_path
    with alone_in(folder, rank=share.rank, count=share.count), heartbeat(folder, share), out_of_memory_named(config):
        entries = read_manifest(config.dataset_base_path, config.dataset_metadata_path, key=config.data_file_keys)
        return _build(config, share, entries=entries)


def _build(config: CacheConfig, share: Share, *, entries: list[ClipEntry]) -> CacheIndex:
    device = choose_device(config.device)
    with out_of_memory_named(config, during="loading"):
        rgba_vae = load_rgba_vae(config, device=device, needs=("merge block",))
    check_lengths({entry.prompt for entry in entries}, load_tokenizer(resolve_base(config)), limit=config.max_sequence_length)
    plan = _plan(config, entries, rgba_vae)
    pending = [shard for shard in share.of(plan.shards) if not plan.has_shard(*shard)]
    records = _probe_all(plan, [mark for _, marks in pending for mark in marks])
    if share.rank == 0 and not _is_finished(plan):
        disk.drop_index(plan.folder)
    _embed(plan, share, device=device)
    with progress("caching", total=len(records)) as advance:
        for path, marks in pending:
            _encode_shard(plan, path, [records[mark] for mark in marks], rgba_vae=rgba_vae, device=device)
            for _ in marks:
                advance()
    if share.rank == 0:
        _finish(plan, share)
    else:
        wait_for(lambda: set() if _is_finished(plan) else {0}, folder=plan.folder)
    return disk.read_index(plan.folder)


def _plan(config: CacheConfig, entries: list[ClipEntry], rgba_vae: RGBAlphaVAE) -> Plan:
    names = ("num_frames", "height", "width", "buckets", "draws", "seed", "hard_threshold")
    settings = {**{name: getattr(config, name) for name in names}, "code": CODE_VERSION}
    encoder = fingerprint(encoder_tensors(rgba_vae), settings)
    marks = tuple(fingerprint({}, {"encoder": encoder, "files": _hashes(entry)})[:32] for entry in entries)
    text = {"files": [sha256(path) for path in loaded_weights(config, "text_encoder").values()], "precision": config.precision}
    text_mark = fingerprint({}, {**text, "max_sequence_length": config.max_sequence_length, "code": CODE_VERSION})
    return Plan(config=config, entries=tuple(entries), marks=marks, text_mark=text_mark)


def _hashes(entry: ClipEntry) -> list[str]:
    """Hashes of a clip's files, of folders frame by frame."""
    paths = [path for path in (entry.rgba, entry.rgb, entry.alpha) if path is not None]
    return [sha256(file) for path in paths for file in (sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path])]


def _probe_all(plan: Plan, marks: list[str]) -> dict[str, ClipRecord]:
    """All before the first is encoded: a bad clip stops the run before anything is written."""
    records = {}
    with progress("reading clips", total=len(marks)) as advance:
        for mark in marks:
            records[mark] = _probe(plan, mark)
            advance()
    return records


def _probe(plan: Plan, mark: str) -> ClipRecord:
    """Read a clip once and find its bucket; one that cannot be read is an error, or a record that says so."""
    entry, config = plan.entry(mark), plan.config
    try:
        clip = read_clip(rgba=entry.rgba, rgb=entry.rgb, alpha=entry.alpha)
    except MediaError as error:
        if config.on_bad_sample == "error":
            raise
        log.warning("left out of the cache: %s: %s", entry.name, error)
        return ClipRecord(mark=mark, source=(0, 0, 0), size=(0, 0, 0), skipped=str(error))
    source = (clip.num_frames, clip.height, clip.width)
    budget = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    size = bucket_of(num_frames=source[0], height=source[1], width=source[2], budget=budget, by=config.buckets)
    return ClipRecord(mark=mark, source=source, size=(size.num_frames, size.height, size.width))


def _embed(plan: Plan, share: Share, *, device: torch.device) -> None:
    """This share of the prompts that are not stored yet; without any, the text encoder is not loaded."""
    config = plan.config
    missing = [prompt for prompt in share.of(plan.prompts) if disk.prompt_mark(plan.folder, prompt) != plan.text_mark]
    if not missing:
        return
    dtype = frozen_dtype(config.precision, device=device)
    with out_of_memory_named(config, during="loading"):
        encoder, tokenizer = load_text_encoder(resolve_base(config), dtype=dtype, device=device)
    with progress("embedding prompts", total=len(missing)) as advance:
        for prompt in missing:
            found = encode_prompts([prompt], encoder=encoder, tokenizer=tokenizer, max_sequence_length=config.max_sequence_length)
            disk.write_prompt(plan.folder, prompt, embedding=found[0].to(dtype), mark=plan.text_mark)
            advance()


def _encode_shard(plan: Plan, path: Path, records: list[ClipRecord], *, rgba_vae: RGBAlphaVAE, device: torch.device) -> None:
    """Write one shard; clips that an older version of it holds are copied."""
    kept = {record.mark for record in disk.read_shard_records(path) if not record.skipped}
    old = read_tensors(path) if kept & {record.mark for record in records} else {}
    shard = Shard()
    for record in records:
        if record.skipped:
            shard.records.append(record)
        elif record.mark in kept:
            shard.add(record, latents=old[f"{record.mark}.latents"], gaussian=old[f"{record.mark}.gaussian"])
        else:
            latents, gaussian = _encode_draws(plan, record, rgba_vae=rgba_vae, device=device)
            shard.add(record, latents=latents, gaussian=gaussian)
    shard.write(path)


def _encode_draws(plan: Plan, record: ClipRecord, *, rgba_vae: RGBAlphaVAE, device: torch.device) -> tuple[Tensor, Tensor]:
    """(latents (N, c, t, h, w), ellipses (N, t, h, w)): each draw has its own window, crop place and background colour."""
    config, size = plan.config, ClipSize(num_frames=record.size[0], height=record.size[1], width=record.size[2])
    seed = int(fingerprint({}, {"mark": record.mark, "seed": config.seed})[:12], 16)
    dataset = ClipDataset([plan.entry(record.mark)], size=size, seed=seed, crop="random", repeat=config.draws)
    pairs = [
        encode_draw(rgba_vae, sample, draw=draw, seed=seed, hard_threshold=config.hard_threshold, device=device)
        for draw, sample in enumerate(dataset)
    ]
    latents, gaussians = zip(*pairs, strict=True)
    return torch.stack(latents), torch.stack(gaussians)


def _is_finished(plan: Plan) -> bool:
    path = plan.folder / "index.json"
    if not path.is_file():
        return False
    try:
        found = disk.read_index(plan.folder)
    except CacheError:
        return False
    return found.fingerprint == plan.fingerprint and all(plan.has_shard(*shard) for shard in plan.shards)


def _finish(plan: Plan, share: Share) -> None:
    """Wait for the other processes' shares, then write the report and the index."""
    shards, prompts = dict(enumerate(plan.shards)), dict(enumerate(plan.prompts))

    def pending() -> set[int]:
        for number in [number for number, shard in shards.items() if plan.has_shard(*shard)]:
            del shards[number]
        for number in [number for number, prompt in prompts.items() if disk.prompt_mark(plan.folder, prompt) == plan.text_mark]:
            del prompts[number]
        return {share.owner(number) for number in (*shards, *prompts)}

    wait_for(pending, folder=plan.folder)
    records = {record.mark: record for path, _ in plan.shards for record in disk.read_shard_records(path)}
    rows = [(entry, records[mark]) for entry, mark in zip(plan.entries, plan.marks, strict=True)]
    kept = [(entry, record) for entry, record in rows if not record.skipped]
    if not kept:
        raise DatasetError("dataset", got=f"{len(rows)} clips, none of them readable", expected="at least one", do=rows[0][1].skipped)
    _write_report(plan, rows)
    disk.write_index(plan.folder, _index(plan, kept))


def _index(plan: Plan, rows: list[tuple[ClipEntry, ClipRecord]]) -> CacheIndex:
    config = plan.config
    shared = {name: getattr(config, name) for name in ("num_frames", "height", "width", "buckets", "draws", "max_sequence_length")}
    return CacheIndex(
        fingerprint=plan.fingerprint,
        names=tuple(entry.name for entry, _ in rows),
        prompts=tuple(entry.prompt for entry, _ in rows),
        clips=tuple(record.mark for _, record in rows),
        sizes=tuple(record.size for _, record in rows),
        merge_block=merge_fingerprint(config),
        weights={role: sha256(path) for role, path in loaded_weights(config, "vae", "text_encoder").items()},
        command=command("cache", config),
        shards=len(plan.shards),
        **shared,
    )


def _write_report(plan: Plan, rows: list[tuple[ClipEntry, ClipRecord]]) -> None:
    """report.json: every row of the dataset with its bucket, or with the reason why it is not in the cache."""
    buckets = Counter("x".join(map(str, record.size)) for _, record in rows if not record.skipped)
    clips = [
        {"name": entry.name, "source": record.source, "bucket": record.size, "skipped": record.skipped or None} for entry, record in rows
    ]
    with beside(plan.folder / "report.json") as partial:
        partial.write_text(json.dumps({"frames x height x width": buckets, "clips": clips}, indent=1, ensure_ascii=False))
