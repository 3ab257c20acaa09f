"""generate: what a run writes, keeps and refuses; the ellipse; prompts from files."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wan_alpha import assemble, recipes
from wan_alpha.assemble import ellipse, load_pipeline, sampling_settings
from wan_alpha.checkpoints.files import sha256, write_tensors
from wan_alpha.config import GenerateConfig
from wan_alpha.data.prompt_list import PromptLine, read_prompt_file
from wan_alpha.errors import UsageError
from wan_alpha.generate import generate, read_prompts
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.left_out import is_own_picture
from wan_alpha.media.write import write_pair, write_png_sequence
from wan_alpha.recipes.tiny import ADAPTER

PROMPT = "A blue ring. The background is transparent. Flat style. Close shot."


def config(output: Path, **changes: object) -> GenerateConfig:
    size = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 1.0}
    return replace(recipes.get_recipe("tiny").generate, output_path=output, **{"prompt": (PROMPT,), **size, **changes})


def test_every_frame_and_the_sidecar_say_how_a_clip_was_made(tmp_path: Path) -> None:
    (clip,) = generate(config(tmp_path, seed=7, ellipse_path=((0.9, 0.5),)))
    record = json.loads((tmp_path / f"{clip.frames.name}.json").read_text())
    with Image.open(clip.frames / "00004.png") as frame:
        said = json.loads(frame.text["wan_alpha"])
    with Image.open(clip.preview) as preview:
        assert json.loads(preview.text["wan_alpha"]) == said
    assert is_own_picture(clip.preview)
    assert said == {name: value for name, value in record.items() if name != "transparency"}
    assert (said["prompt"], said["seed"], said["sampling"]["noise_shift"]) == (PROMPT, 7, pytest.approx(0.05))
    assert said["ellipse"]["path"] == [[0.9, 0.5]]
    assert sha256(ADAPTER) in said["weights"].values()


def test_a_batch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"prompt,seed\n{PROMPT},3\n{PROMPT},{2**64 - 1}\n")
    batch = config(tmp_path / "out", prompt=(), prompt_file=tmp_path / "list.csv")
    first, second = generate(batch)
    assert (first.seed, second.seed) == (3, 2**64 - 1)
    stamps = first.preview.stat().st_mtime_ns, second.preview.stat().st_mtime_ns
    (second.frames / "00004.png").unlink()
    again = generate(batch)
    assert again == [first, second]
    assert first.preview.stat().st_mtime_ns == stamps[0]
    assert second.preview.stat().st_mtime_ns != stamps[1]
    generate(replace(batch, sigma_shift=4.0, prompt_file=None, prompt=(PROMPT,), seed=3))
    assert first.preview.stat().st_mtime_ns != stamps[0]  # other settings: another clip


def test_prompts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "one", "seed": 5}\n{"prompt": "two", "negative_prompt": "grey"}\n')
    (tmp_path / "c.csv").write_text(f'prompt,seed\n"one, with a comma",8\n二,\nthree,000{2**64 - 1}\n')
    assert [line.prompt for line in read_prompt_file(tmp_path / "a.txt")] == ["one", "two"]
    assert read_prompt_file(tmp_path / "b.jsonl") == [PromptLine(prompt="one", seed=5), PromptLine(prompt="two", negative_prompt="grey")]
    first, second, third = read_prompt_file(tmp_path / "c.csv")
    assert (first, second) == (PromptLine(prompt="one, with a comma", seed=8), PromptLine(prompt="二"))
    assert third == PromptLine(prompt="three", seed=2**64 - 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "promt\none\n", r"a\.csv, line 2: got a column 'promt'; did you mean 'prompt'"),
        ("b.csv", "prompt,seed\none,-1\n", r"b\.csv, line 2: got seed '-1', expected a whole number from 0 to 18446744073709551615"),
        ("b.csv", f"prompt,seed\none,1\ntwo,{2**64}\n", r"line 3: got seed '18446744073709551616', expected a whole number from 0 to"),
        ("b.csv", f"prompt,seed\none,{'9' * 5000}\n", r"line 2: got seed '9{290,300} \.\.\. \(5007 characters\), expected a whole number"),
        ("b.csv", "prompt,seed\none,1.5e3\n", "seed '1.5e3'"),
        ("b.csv", "prompt\none,two\n", "line 2: got more cells than columns"),
        ("b.csv", f'prompt\n"{"x" * 200_000}\n', r"broken CSV \(field larger than field limit"),
        ("b.csv", 'prompt\n"one" two\n', "after line 1: got broken CSV"),
        ("b.jsonl", f'{{"prompt": "one", "seed": {2**64}}}\n', r"line 1: got seed 18446744073709551616, expected a whole number from 0"),
        ("b.jsonl", f'{{"prompt": "one", "seed": {"9" * 5000}}}\n', r"line 1: got broken JSON \(ValueError: Exceeds the limit"),
        ("b.jsonl", '{"prompt": "one", "seed": true}\n', "seed True"),
        ("c.jsonl", '{"prompt": "one"}\n{"prompt": ""}\n', r"line 2: got no prompt"),
        ("d.jsonl", "[]\n", "got list"),
        ("e.jsonl", "{\n", "broken JSON"),
        ("f.txt", "\n", "got no prompt"),
    ],
)
def test_bad_prompt_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_prompts(config(tmp_path, prompt=(), prompt_file=tmp_path / name))


def test_an_incomplete_prompt_is_warned_about_with_the_complete_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "wan_alpha"):
        read_prompts(config(tmp_path, prompt=("A blue ring. Flat style.", PROMPT)))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.endswith("try: The background of this video is transparent. A blue ring. Flat style. Medium shot.")


def test_ellipse_from_a_clip_follows_its_subject(tmp_path: Path) -> None:
    alpha = np.zeros((3, 64, 96), np.uint8)
    alpha[:, 8:24, 60:90] = 255
    clip = RgbaClip(rgb=np.zeros((*alpha.shape, 3), np.uint8), alpha=alpha, fps=16.0)
    write_pair(clip, tmp_path / "clip")
    write_png_sequence(clip, tmp_path / "frames")
    found = [ellipse(config(tmp_path, ellipse_from=tmp_path / name)) for name in ("clip_alpha.mp4", "frames")]
    assert found[0].shape == (2, 4, 6)
    torch.testing.assert_close(found[0], found[1])
    assert found[0][0].argmax().item() == 4  # row 0, columns 4 and 5 hold the subject
    middle = ellipse(config(tmp_path))
    assert torch.equal(middle, middle.flip(1).flip(2))
    moving = ellipse(config(tmp_path, ellipse_centre=(0.1, 0.5), ellipse_path=((0.9, 0.5),)))
    assert moving[0].sum(dim=0).argmax() < moving[1].sum(dim=0).argmax()


def test_noise_shift_and_text_length_come_from_the_adapter(tmp_path: Path) -> None:
    pipeline = load_pipeline(config(tmp_path))
    assert sampling_settings(config(tmp_path, max_sequence_length=None), pipeline).max_sequence_length == 128
    assert sampling_settings(config(tmp_path, noise_shift=0.0), pipeline).noise_shift == 0
    with pytest.raises(UsageError, match="expected 128, as the adapter was trained"):
        sampling_settings(config(tmp_path, max_sequence_length=64), pipeline)
    base = load_pipeline(config(tmp_path, adapter_path=None))
    assert sampling_settings(config(tmp_path), base).noise_shift == 0


def test_the_order_of_the_merges_matters_and_is_recorded(tmp_path: Path) -> None:
    base = load_pipeline(config(tmp_path, adapter_path=None)).transformer
    weight = base.blocks[0].attn1.to_q.weight
    pair = {"down": torch.randn(2, weight.shape[1]), "up": torch.randn(weight.shape[0], 2)}
    write_tensors(tmp_path / "fast.safetensors", {f"blocks.0.self_attn.q.lora_{k}.weight": 0.1 * v for k, v in pair.items()}, metadata={})
    fast = config(tmp_path, acceleration_lora=tmp_path / "fast.safetensors")
    first, second = (
        load_pipeline(replace(fast, merge_order=order)).transformer.blocks[0].attn1.to_q.weight
        for order in ("adapter_first", "acceleration_first")
    )
    plain = load_pipeline(config(tmp_path)).transformer.blocks[0].attn1.to_q.weight
    torch.testing.assert_close(first, plain + 0.01 * pair["up"] @ pair["down"])
    assert not torch.allclose(first, second, atol=1e-4)


def test_offload_needs_an_accelerator(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--offload model: got a CPU"):
        load_pipeline(config(tmp_path, device="cpu", offload="model"))
    assert assemble.pipeline_folder(config(tmp_path)) is None


def test_a_transformer_to_be_quantised_waits_in_the_cpus_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From files and from a saved pipeline; the meta device stands in for an accelerator."""
    parts = config(tmp_path)
    load_pipeline(parts).save_pretrained(tmp_path / "pipeline")
    whole = replace(parts, model=str(tmp_path / "pipeline"), adapter_path=None, vae_lora_path=None)
    asked: list[str] = []
    monkeypatch.setattr(assemble, "choose_device", lambda name: asked.append(name) or torch.device("meta"))
    for settings in (parts, whole):
        pipeline = load_pipeline(replace(settings, base_quantization="int8"))
        places = [model.device.type for model in (pipeline.transformer, pipeline.text_encoder, pipeline.rgba_vae)]
        assert places == ["cpu", "meta", "meta"]
        assert assemble.home_of_models(settings, device=torch.device("meta")).type == "meta"
    assert len(asked) == 2, "once for each pipeline"


def test_a_saved_pipeline_generates_the_same_clip(tmp_path: Path) -> None:
    (clip,) = generate(config(tmp_path / "parts", save_pipeline=tmp_path / "pipeline"))
    whole = config(tmp_path / "whole", model=str(tmp_path / "pipeline"), adapter_path=None, vae_lora_path=None)
    (again,) = generate(whole)
    for name in ("00000.png", "00004.png"):
        with Image.open(clip.frames / name) as expected, Image.open(again.frames / name) as found:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
