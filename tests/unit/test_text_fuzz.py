"""Damaged captions, tables and lists of prompts: each is one error that names the file, or is read. Mutations are seeded, not random."""

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from damaged import SECONDS, mutated
from faults import clean_clip
from wan_alpha.data.manifest import read_manifest
from wan_alpha.data.prompt_list import read_prompt_file
from wan_alpha.data.sources import file_sources
from wan_alpha.errors import DatasetError, UsageError
from wan_alpha.media.read import BY_FILE
from wan_alpha.media.write import write_pair, write_webp

MUTATIONS = 150
PIECES = [
    *(b"\0", b'"', b"'", b",", b"\n", b"\r", b"\\", b"{", b"]", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xa8"),
    *(b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"true", b"null", b'{"file": []}'),
    *(b"../", b"/etc/passwd", b"C:\\", b"x" * 300, b"a/" * 2000, b"a.webp" * 30_000, b",,,,", b"prompt"),
]


def captions(folder: Path) -> None:
    for source in file_sources(folder, settings=BY_FILE):
        assert isinstance(source.caption(), str)


def table(folder: Path) -> None:
    """As training reads it, then as prepare and doctor do."""
    assert read_manifest(folder)
    captions(folder)


def prompts(folder: Path) -> None:
    for path in folder.glob("prompts.*"):
        assert all(line.prompt and (line.seed is None or 0 <= line.seed < 2**64) for line in read_prompt_file(path))


LINES = [{"rgba": "a.webp", "prompt": "a star"}, {"rgb": "b_rgb.mp4", "alpha": "b_alpha.mp4", "prompt": "a disc", "frames": 2}]
TEXTS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "caption": ("a.txt", "A red star that moves right. The background is transparent.", captions),
    "caption in JSON": ("a.json", json.dumps({"caption": "a star", "fps": 16.0, "size": [16, 16], "more": {"seed": 3}}), captions),
    "listing": (
        "manifest.json",
        json.dumps([{"file": "a.webp", "caption": "a star", "frames": 2, "split": "train"}, {"file": "b_rgb.mp4", "caption": None}]),
        captions,
    ),
    "table of names": ("metadata.csv", 'video,prompt\na.webp,"a star, red"\nb,a disc\n', table),
    "table of halves": (
        "metadata.csv",
        "video_fgr,video_pha,prompt,frame_height,frame_width,num_frames\nb_rgb.mp4,b_alpha.mp4,a disc,832,480,81\n",
        table,
    ),
    "JSON lines": ("metadata.jsonl", "\n".join(map(json.dumps, LINES)), table),
    "JSON lines of names": ("metadata.jsonl", '{"video": "a.webp", "prompt": "a star"}\n{"video": "b", "prompt": ""}\n', table),
    "prompts": ("prompts.txt", "A red star.\nA blue disc.\n", prompts),
    "prompts in a table": ("prompts.csv", 'prompt,seed,negative_prompt\n"a star, red",18446744073709551615,grey\na disc,,\n', prompts),
    "prompts in JSON": ("prompts.jsonl", '{"prompt": "a star", "seed": 5}\n{"prompt": "a disc", "negative_prompt": "grey"}\n', prompts),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    clip = clean_clip(6, side=16, num_frames=2)
    write_webp(clip, folder / "a.webp")
    write_pair(clip, folder / "b")
    return folder


def garbled(data: bytes, rng: np.random.Generator) -> bytes:
    """Damaged as other files are, or with a piece put in, or in the place of a word."""
    kind, piece, at = int(rng.integers(3)), PIECES[int(rng.integers(len(PIECES)))], int(rng.integers(len(data)))
    if kind == 0:
        return mutated(data, rng)
    return data[:at] + piece + data[at + (0 if kind == 1 else int(rng.integers(1, 12))) :]


@pytest.mark.parametrize("kind", TEXTS)
def test_damage_is_an_error_or_a_text(clips, kind):
    name, text, read = TEXTS[kind]
    path, rng = clips / name, np.random.default_rng(zlib.crc32(kind.encode()))
    refused: list[str] = []
    try:
        path.write_text(text)
        read(clips)
        for number in range(MUTATIONS):
            path.write_bytes(garbled(text.encode(), rng))
            started = time.process_time()
            try:
                read(clips)
            except (DatasetError, UsageError) as error:
                refused.append(str(error))
            assert time.process_time() - started < SECONDS, number
    finally:
        path.unlink()
    assert len(refused) > MUTATIONS // 20
    assert [line for line in refused if str(clips) not in line] == []
    assert max(len(line) for line in refused) < 2000
    assert "\n" not in "".join(refused)
