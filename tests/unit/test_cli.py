"""The command line: flags to configs, errors on one line, the seed document's commands."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from wan_alpha import __version__, cli, console, progress
from wan_alpha.config import GenerateConfig, TrainDitConfig
from wan_alpha.errors import MediaError

SEEDS = Path(__file__).parents[3] / "shared" / "seeds"
SEED_COMMANDS = r"""
python examples/wanvideo/model_training/train_feature_merge.py \
  --dataset_base_path data/rgba_videos \
  --dataset_metadata_path data/rgba_videos/metadata.csv \
  --base_vae_path weights/Wan2.1_VAE.pth \
  --vae_lora_path Wan-Alpha/vae/decoder.bin \
  --height 272 --width 272 --num_frames 17 \
  --learning_rate 1e-4 --num_epochs 10 \
  --output_path ./models/train/feature_merge

accelerate launch examples/wanvideo/model_training/train.py \
  --rgba_mode \
  --dataset_base_path data/rgba_videos \
  --dataset_metadata_path data/rgba_videos/metadata.csv \
  --data_file_keys "video" \
  --height 272 --width 272 --num_frames 17 \
  --dataset_repeat 100 \
  --model_id_with_origin_paths "Wan-AI/Wan2.1-T2V-1.3B:diffusion_pytorch_model*.safetensors,Wan-AI/Wan2.1-T2V-1.3B:models_t5_umt5-xxl-enc-bf16.pth,Wan-AI/Wan2.1-T2V-1.3B:Wan2.1_VAE.pth" \
  --base_vae_path weights/Wan2.1_VAE.pth \
  --vae_lora_path Wan-Alpha/vae/decoder.bin \
  --feature_merge_checkpoint models/train/feature_merge/feature_merge_epoch_9.safetensors \
  --use_dora \
  --dora_rank 32 \
  --learning_rate 1e-4 --num_epochs 15 \
  --remove_prefix_in_ckpt "pipe.dit." \
  --output_path "./models/train/Wan-Alpha-DiT-DoRA"

python examples/wanvideo/model_training/validate_feature_merge.py \
  --base_vae_path weights/Wan2.1_VAE.pth \
  --vae_lora_path Wan-Alpha/vae/decoder.bin \
  --feature_merge_checkpoint models/train/feature_merge/feature_merge_epoch_9.safetensors \
  --test_rgb_video data/rgba_videos/001_rgb.mp4 \
  --test_alpha_video data/rgba_videos/001_alpha.mp4 \
  --output_prefix validation
"""  # noqa: E501 - as it stands in the document
SEED_VERBS = {"train_feature_merge.py": "train-vae", "train.py": "train-dit", "validate_feature_merge.py": "evaluate"}
PARTS = {
    "base_vae_path": "weights/Wan2.1_VAE.pth",
    "vae_lora_path": "Wan-Alpha/vae/decoder.bin",
    "feature_merge_checkpoint": "models/train/feature_merge/feature_merge_epoch_9.safetensors",
}
DATASET = {
    "dataset_base_path": "data/rgba_videos",
    "dataset_metadata_path": "data/rgba_videos/metadata.csv",
    "height": 272,
    "width": 272,
    "num_frames": 17,
}
SEED_CONFIGS = {
    "train-vae": DATASET
    | {name: PARTS[name] for name in ("base_vae_path", "vae_lora_path")}
    | {"learning_rate": 1e-4, "num_epochs": 10, "output_path": "models/train/feature_merge", "mode": "merge"},
    "train-dit": DATASET
    | PARTS
    | {
        "data_file_keys": "video",
        "dataset_repeat": 100,
        "model_id_with_origin_paths": "Wan-AI/Wan2.1-T2V-1.3B:diffusion_pytorch_model*.safetensors,"
        "Wan-AI/Wan2.1-T2V-1.3B:models_t5_umt5-xxl-enc-bf16.pth,Wan-AI/Wan2.1-T2V-1.3B:Wan2.1_VAE.pth",
        "adapter": "dora",
        "dora_rank": 32,
        "learning_rate": 1e-4,
        "num_epochs": 15,
        "remove_prefix_in_ckpt": "pipe.dit.",
        "output_path": "models/train/Wan-Alpha-DiT-DoRA",
    },
    "evaluate": PARTS
    | {
        "test_rgb_video": "data/rgba_videos/001_rgb.mp4",
        "test_alpha_video": "data/rgba_videos/001_alpha.mp4",
        "output_prefix": "validation",
    },
}


def seed_commands(text: str) -> list[tuple[str, list[str]]]:
    """(verb, what follows the script's name) of every python or accelerate command in a document."""
    joined = text.replace("\\\n", " ")
    commands = [shlex.split(line) for line in joined.splitlines() if re.match(r"(python|accelerate launch) ", line.strip())]
    scripts = [next(i for i, token in enumerate(command) if token.endswith(".py")) for command in commands]
    return [(SEED_VERBS[Path(command[i]).name], command[i + 1 :]) for command, i in zip(commands, scripts, strict=True)]


def dry_run(capsys: pytest.CaptureFixture[str], *tokens: str) -> dict:
    assert cli.main([*tokens, "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


def failing_line(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    """The one line on stderr of a command that must exit with 2 and print nothing else."""
    assert cli.main(list(tokens)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(("verb", "flags"), seed_commands(SEED_COMMANDS), ids=lambda value: value if isinstance(value, str) else "")
def test_seed_command_gives_its_config(verb: str, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parsed = dry_run(capsys, verb, *flags)
    assert {name: parsed[name] for name in SEED_CONFIGS[verb]} == SEED_CONFIGS[verb]


def test_seed_document_holds_the_same_three_commands() -> None:
    documents = sorted(SEEDS.glob("*.txt"))
    if not documents:
        pytest.skip("the seed document is not beside the repository")
    text = documents[0].read_text(encoding="utf-8", errors="replace")
    assert seed_commands(text) == seed_commands(SEED_COMMANDS)


def test_seed_num_workers(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys, "train-vae", "--num_workers", "0")["num_workers"] == 0


def test_hyphens_and_underscores_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys, "cache", "--num-frames", "9") == dry_run(capsys, "cache", "--num_frames=9")


def test_use_dora_wins_over_the_recipe_and_lora_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys, "train-dit", "--adapter", "lora")["adapter"] == "lora"
    assert dry_run(capsys, "train-dit", "--adapter", "lora", "--use-dora")["adapter"] == "dora"


def test_words_before_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys, "prepare", "clips", "--fps", "24")["source"] == "clips"
    assert dry_run(capsys, "generate", "a red disc", "a blue star", "--seed", "3")["prompt"] == ["a red disc", "a blue star"]


def test_switch_and_its_opposite(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys, "train-dit", "--gradient_checkpointing")["gradient_checkpointing"] is True
    assert dry_run(capsys, "train-dit", "--recipe", "wan_14b", "--no_gradient_checkpointing")["gradient_checkpointing"] is False


def test_flags_change_single_fields_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = dry_run(capsys, "generate", "--recipe", "tiny", "--num_inference_steps", "2")
    assert (parsed["height"], parsed["num_frames"], parsed["num_inference_steps"]) == (64, 17, 2)


def test_tuples(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys, "generate", "--ellipse_centre", "0.25", "0.75", "--ellipse_angle", "-30")["ellipse_centre"] == [0.25, 0.75]
    assert dry_run(capsys, "export", "--formats", "png", "pair")["formats"] == ["png", "pair"]


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        (["train_vea"], ["unknown command 'train_vea'", "did you mean 'train-vae'"]),
        (["generate", "--hieght", "64"], ["generate: unknown flag --hieght", "did you mean --height?", "generate --help"]),
        (["generate", "--height", "tall"], ["generate: Error parsing --height", "'tall'", "generate --help"]),
        (["generate", "--sampler", "heun"], ["invalid choice 'heun' for argument '--sampler'", "unipc"]),
        (["generate", "--height"], ["Missing value for argument '--height'"]),
        (["generate", "--ellipse_axes", "1"], ["Missing value for argument '--ellipse_axes'", "2 values"]),
        (["cache", "clips"], ["cache: 'clips' belongs to no flag"]),
        (["cache", "--recipe", "tinny"], ["unknown recipe 'tinny'", "did you mean 'tiny'", "apple_silicon"]),
        (["cache", "--recipe"], ["--recipe", "known: tiny"]),
        (["recipes", "nothing"], ["unknown recipe 'nothing'"]),
        (["cache", "--num_frames", "15"], ["num_frames: got 15, expected 4n+1; use --num_frames 13 or 17"]),
        (["cache", "--dry_run", "--width", "100"], ["width: got 100, expected a multiple of 16; use --width 96 or 112"]),
        (["train-vae", "--rgba_mode"], ["unknown flag --rgba_mode"]),
        (["prepare", "--height", "100000"], ["--height: got 100000, expected at most 16384"]),
        (["doctor", "--num_frames", "6"], ["num_frames: got 6, expected 4n+1"]),
        (["generate", "--num_frames", "1000001"], ["--num_frames: got 1000001, expected at most 100000"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_usage_errors_are_one_line_and_exit_2(tokens: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = failing_line(capsys, *tokens)
    assert [part for part in parts if part not in line] == []


def run_stage(monkeypatch: pytest.MonkeyPatch, function: object, *tokens: str) -> int:
    """A verb whose stage is replaced by `function`; the console stays as pytest has it."""
    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(export=function))
    monkeypatch.setattr(cli, "_configure_console", lambda level: None)
    return cli.main(["export", *tokens])


def raising(error: BaseException):
    def stage(config: object) -> None:
        raise error

    return stage


def test_errors_of_a_stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = MediaError("clip.mov", got="15 frames", expected="17")
    assert run_stage(monkeypatch, raising(error)) == 2
    assert capsys.readouterr().err == "error: clip.mov: got 15 frames, expected 17\n"
    assert run_stage(monkeypatch, raising(error), "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_out_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage(monkeypatch, raising(MemoryError("Unable to allocate 4.00 TiB"))) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory (Unable to allocate 4.00 TiB); ask for")
    assert err.count("\n") == 1


def test_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage(monkeypatch, raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_unexpected_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(monkeypatch, raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (None, []),
        (Path("a/b"), ["a/b"]),
        ([Path("a"), Path("b")], ["a", "b"]),
        ({"rgb_mae": 4.12345, "clips": 3}, ["rgb_mae: 4.123", "clips: 3"]),
        (SimpleNamespace(summary=lambda: ["one", "two"]), ["one", "two"]),
        (SimpleNamespace(summary="one"), ["one"]),
    ],
)
def test_results_are_printed(result: object, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage(monkeypatch, lambda config: result) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_only_the_first_process_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_stage(monkeypatch, lambda config: Path("x")) == 0
    assert capsys.readouterr().out == ""


def test_overview_names_the_stages_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    places = [out.index(f" {verb} ") for verb in cli.VERBS]
    assert places == sorted(places)


def test_every_verb_has_help_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--ellipse_centre" in out
    assert "Noise levels: exact" in out
    assert "--recipe" in out


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["tiny", "wan_1_3b", "wan_14b", "apple_silicon"]
    assert cli.main(["recipes", "apple-silicon"]) == 0
    assert "hardware:" in capsys.readouterr().out


def test_flag_errors_and_version_do_not_wait_for_torch() -> None:
    code = "import sys; from wan_alpha.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for tokens in (["--version"], ["train-dit", "--dry-run"], ["train-dit", "--hepl"]):
        done = subprocess.run([sys.executable, "-c", code, *tokens], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert cli.__version__ == __version__


def test_a_reader_that_leaves_is_no_traceback() -> None:
    code = "import sys; from wan_alpha.cli import main; sys.stdin.read(); sys.exit(main(['--version']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate("")
    assert (process.returncode, err) == (141, "")


def test_every_verb_fits_the_config_and_recipe_names() -> None:
    assert [verb.config.__name__.removesuffix("Config").lower() for verb in cli.VERBS.values()] == [
        name.replace("-", "") for name in cli.VERBS
    ]
    assert cli.VERBS["generate"].config is GenerateConfig
    assert cli.VERBS["train-dit"].config is TrainDitConfig


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_count_and_last_values(terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_display", [*progress._display])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    console.install_progress()
    with progress.progress("training", total=5, done=3) as advance:
        advance(loss=0.5)
        advance(loss=0.25)
    err = capsys.readouterr().err
    assert "5/5" in err
    assert "loss 0.25" in err


@pytest.mark.parametrize(("tokens", "level"), [([], "INFO"), (["--debug"], "DEBUG")])
def test_log_goes_to_stderr_at_the_level_asked_for(tokens: list[str], level: str) -> None:
    """In a process of its own: pytest holds the root logger here."""
    stage = "lambda config: logging.getLogger('wan_alpha.export').log(getattr(logging, sys.argv[1]), 'spoken')"
    code = f"import logging, sys, types; from wan_alpha import cli; cli.import_module = lambda n: types.SimpleNamespace(export={stage}); "
    command = [sys.executable, "-c", code + "sys.exit(cli.main(['export', *sys.argv[2:]]))", level, *tokens]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "spoken" in done.stderr
    assert done.stdout == ""
