"""Prompts in the published form, and what is said about the others."""

import doctest

import pytest

from wan_alpha import prompts
from wan_alpha.data.synthetic import evaluation_scenes, transparent_caption
from wan_alpha.prompts import build_prompt, prompt_problems, suggested_prompt

COMPLETE = [
    "This video has a transparent background. Close-up shot. A colorful parrot is flying. Realistic style.",
    "The background of this video is transparent. A gray squirrel holding a chestnut. Realistic style. Medium shot.",
    "A red star moving right. The background is transparent. Flat style. Close shot.",
    "A glass of water on a transparent background, watercolour, full shot",
    "视频背景是透明的。一只白色的狐狸在抖毛。真实风格。近景。",
    "透明背景，特写，一个女孩在跳舞，3D卡通风格",
]


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(prompts).failed == 0
    assert doctest.testmod(prompts).attempted >= 3


@pytest.mark.parametrize("prompt", COMPLETE)
def test_complete_prompts_have_no_problem(prompt: str) -> None:
    assert prompt_problems(prompt) == []
    assert suggested_prompt(prompt).rstrip(".。") == prompt.rstrip(".。")


def test_captions_of_procedural_clips_are_complete() -> None:
    assert [prompt_problems(transparent_caption(scene)) for scene in evaluation_scenes(8, seed=1)] == [[]] * 8


@pytest.mark.parametrize(
    ("prompt", "problems"),
    [
        ("", 4),
        ("A red fox.", 3),
        ("The background of this video is transparent. Realistic style. Medium shot.", 1),
        ("A transparent glass in front of a red background. Realistic style. Close shot.", 1),
        ("A fox. The background is not transparent. Realistic style. Close shot.", 1),
        ("透明背景。真实风格。中景。", 1),
        ("一只狐狸", 3),
    ],
)
def test_each_missing_part_is_one_problem(prompt: str, problems: int) -> None:
    assert len(prompt_problems(prompt)) == problems


@pytest.mark.parametrize("prompt", ["A red fox", "一只狐狸在跳", "A fox. Flat style.", "狐狸。中景。"])
def test_the_suggestion_is_complete_and_keeps_the_words(prompt: str) -> None:
    assert prompt_problems(suggested_prompt(prompt)) == []
    assert prompt in suggested_prompt(prompt)


@pytest.mark.parametrize("subject", ["a white fox shakes its fur.", "一只白狐狸"])
def test_built_prompts_are_complete(subject: str) -> None:
    assert prompt_problems(build_prompt(subject)) == []
