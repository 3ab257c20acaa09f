"""The diffusers pipeline: one folder, offload, batches, and the arithmetic without it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wan_alpha import recipes
from wan_alpha.assemble import load_pipeline
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.models.sources import tiny_folder
from wan_alpha.objectives.transparency import gaussian_from_ellipse
from wan_alpha.pipeline import Conditions, RgbaClips, SamplingSettings, WanAlphaPipeline, sample_clips

PROMPTS = ["A red star. The background is transparent.", "A blue ring."]
SIZE = ClipSize(num_frames=5, height=32, width=48)
SETTINGS = SamplingSettings(num_inference_steps=2, sigma_shift=3.0, noise_shift=0.0, max_sequence_length=128)


@pytest.fixture(scope="module")
def pipeline() -> WanAlphaPipeline:
    torch.set_num_threads(1)
    return load_pipeline(replace(recipes.get_recipe("tiny").generate, device="cpu"))


def run(pipeline: WanAlphaPipeline, prompts: list[str], seeds: list[int], **changes: object) -> RgbaClips:
    return pipeline(prompts, seeds=seeds, size=SIZE, settings=replace(SETTINGS, **changes))


def test_one_folder_holds_everything_and_gives_the_same_clips(pipeline: WanAlphaPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model_index.json", "rgba_vae", "text_encoder", "tokenizer", "transformer"}
    again = WanAlphaPipeline.from_pretrained(tmp_path)
    assert (again.config.noise_shift, again.config.max_sequence_length) == (0.05, 128)
    expected, found = run(pipeline, PROMPTS[:1], [3]), run(again, PROMPTS[:1], [3])
    assert torch.equal(found.rgb, expected.rgb)
    assert torch.equal(found.alpha, expected.alpha)
    by_config = load_pipeline(replace(recipes.get_recipe("tiny").generate, model=str(tmp_path), vae_lora_path=None, adapter_path=None))
    assert torch.equal(run(by_config, PROMPTS[:1], [3]).rgb, expected.rgb)
    with pytest.raises(UsageError, match=r"adapter_path.*a folder of a whole pipeline"):
        load_pipeline(replace(recipes.get_recipe("tiny").generate, model=str(tmp_path), vae_lora_path=None))


def test_what_is_left_open_is_as_the_adapter_was_trained(pipeline: WanAlphaPipeline) -> None:
    steps = SamplingSettings(num_inference_steps=2, sigma_shift=3.0)
    trained = replace(steps, noise_shift=0.05, max_sequence_length=128)
    assert pipeline.complete(steps) == trained
    found = pipeline(PROMPTS[:1], seeds=[3], size=SIZE, settings=steps)
    middle = gaussian_from_ellipse(shape=SIZE.latent_shape)
    assert torch.equal(found.rgb, pipeline(PROMPTS[:1], seeds=[3], size=SIZE, settings=trained, gaussian=middle).rgb)
    assert not torch.equal(found.rgb, run(pipeline, PROMPTS[:1], [3]).rgb)
    with pytest.raises(UsageError, match="128, as the adapter was trained"):
        pipeline(PROMPTS[:1], seeds=[3], size=SIZE, settings=replace(steps, max_sequence_length=512))


def test_a_folder_whose_adapter_is_merged_takes_no_other_strength_or_order(pipeline: WanAlphaPipeline, tmp_path: Path) -> None:
    pipeline.register_to_config(acceleration_lora="fast.safetensors")
    pipeline.save_pretrained(tmp_path)
    pipeline.register_to_config(acceleration_lora=None)
    config = replace(recipes.get_recipe("tiny").generate, model=str(tmp_path), vae_lora_path=None, adapter_path=None)
    for changes in ({"adapter_strength": 0.5}, {"merge_order": "acceleration_first"}):
        with pytest.raises(UsageError, match="merged already"):
            load_pipeline(replace(config, **changes))
    with pytest.raises(UsageError, match=r"fast\.safetensors is merged already"):
        load_pipeline(replace(config, acceleration_lora=tmp_path / "other.safetensors"))


def test_a_converted_vae_is_no_pipeline(tmp_path: Path) -> None:
    shutil.copytree(tiny_folder() / "vae", tmp_path / "vae")
    (tmp_path / "rgba_vae").mkdir()
    config = replace(recipes.get_recipe("tiny").generate, model=str(tmp_path))
    for index in ('{"_class_name": "WanPipeline"}', "[]", "{"):
        (tmp_path / "model_index.json").write_text(index)
        with pytest.raises(UsageError, match=r"transformer.*expected"):
            load_pipeline(config)


def test_a_damaged_folder_is_named(pipeline: WanAlphaPipeline, tmp_path: Path) -> None:
    pipeline.rgba_vae.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vae"]["base_dim"] = 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tensors of other shapes"):
        type(pipeline.rgba_vae).from_pretrained(tmp_path)


def test_a_clip_does_not_depend_on_its_batch(pipeline: WanAlphaPipeline) -> None:
    both, alone = run(pipeline, PROMPTS, [3, 4], guidance_scale=2.0), run(pipeline, PROMPTS[1:], [4], guidance_scale=2.0)
    torch.testing.assert_close(both.rgb[1:], alone.rgb, atol=1e-4, rtol=0)
    torch.testing.assert_close(both.alpha[1:], alone.alpha, atol=1e-4, rtol=0)
    with pytest.raises(UsageError, match="one per prompt"):
        run(pipeline, PROMPTS, [3])


def test_guidance_one_runs_no_negative_pass(pipeline: WanAlphaPipeline) -> None:
    calls = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    run(pipeline, PROMPTS[:1], [0])
    assert len(calls) == SETTINGS.num_inference_steps
    run(pipeline, PROMPTS[:1], [0], guidance_scale=2.0)
    assert len(calls) == 3 * SETTINGS.num_inference_steps
    hook.remove()


def test_negative_prompt_and_published_levels_count(pipeline: WanAlphaPipeline) -> None:
    settings = replace(SETTINGS, guidance_scale=2.0)
    plain = pipeline(PROMPTS[:1], seeds=[0], size=SIZE, settings=settings).rgb
    assert not torch.equal(plain, pipeline(PROMPTS[:1], seeds=[0], size=SIZE, settings=settings, negative_prompt="A glow.").rgb)
    assert not torch.equal(plain, pipeline(PROMPTS[:1], seeds=[0], size=SIZE, settings=replace(settings, sigmas="reference")).rgb)


def test_previews_of_a_training_need_models_and_embeddings_only(pipeline: WanAlphaPipeline) -> None:
    context = pipeline.embed(PROMPTS[:1], max_sequence_length=128)
    found = sample_clips(
        pipeline.transformer,
        rgba_vae=pipeline.rgba_vae,
        conditions=Conditions(size=SIZE, seeds=[3], context=context),
        settings=SETTINGS,
    )
    assert torch.equal(found.rgb, run(pipeline, PROMPTS[:1], [3]).rgb)
    for changes, message in (({"noise_shift": 0.05}, "an ellipse beside it"), ({"guidance_scale": 2.0}, "negative prompt")):
        with pytest.raises(UsageError, match=message):
            sample_clips(
                pipeline.transformer,
                rgba_vae=pipeline.rgba_vae,
                conditions=Conditions(size=SIZE, seeds=[3], context=context),
                settings=replace(SETTINGS, **changes),
            )


def test_offload_knows_every_model_and_wakes_the_decoders(pipeline: WanAlphaPipeline) -> None:
    modules = {name for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    assert set(pipeline.model_cpu_offload_seq.split("->")) == modules
    woken = []

    class Hook:
        def pre_forward(self, module: torch.nn.Module) -> None:
            woken.append(module)

    pipeline.rgba_vae._hf_hook = Hook()
    pipeline.rgba_vae.decode(torch.zeros(1, 16, 1, 2, 2))
    del pipeline.rgba_vae._hf_hook
    assert woken == [pipeline.rgba_vae]
