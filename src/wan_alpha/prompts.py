"""Wan-Alpha's prompt form: that the background is transparent, the subject, the style, the shot size; in English or Chinese.

The published captions and example prompts always say these four (paper.md, sections 6 and 7); a prompt that leaves one out asks for
something that the adapter was not trained on.
"""

import re

_TRANSPARENT = re.compile(
    r"\b(?:transparent|see-through|alpha)[\s-]+background|background\b[^.!?;。]{0,40}?\b(?:is|be|being|are|stays|remains)\s+(?:\w+ly\s+)?"
    r"transparent|\bbackground[:\s]+transparent|透明的?背景|背景[^。；，,.]{0,12}透明",
    re.IGNORECASE,
)
_OPAQUE = re.compile(
    r"\b(?:not|isn't|never)\s+(?:a\s+)?(?:\w+ly\s+)?transparent|\b(?:opaque|solid)\s+background|不透明的?背景|背景[^。；，,.]{0,8}不透明",
    re.IGNORECASE,
)
_STYLE = re.compile(
    r"(?:[\w-]+\s+)?\bstyled?\b|\b(?:photo-?)?realis(?:tic|m)\b"
    r"|\b(?:cartoon|anime|watercolou?r|pixel art|claymation|line art|cel[- ]shaded)\b"
    r"|[\u4e00-\u9fff]{0,6}风格|写实|真实感|卡通|动漫|水墨",
    re.IGNORECASE,
)
_SHOT = re.compile(
    r"\b(?:extreme\s+|medium\s+)?close[\s-]?up(?:\s+shot)?\b"
    r"|\b(?:close|medium|mid|full|full[\s-]body|half[\s-]body|wide|long|establishing|distant|bust|cowboy)(?:[\s-]range)?[\s-](?:shot|view)\b"
    r"|大特写|特写|近景|中景|全景|远景|全身|半身",
    re.IGNORECASE,
)
_EMPTY_WORDS = re.compile(
    r"\b(?:this|the|a|an|of|in|on|with|and|its?|is|has|are|video|clip|animation|scene|shot|view|style|background|transparent)\b"
    r"|[这该个段视频画面的是为有在背景透明镜头，。；、：]|[\W_]",
    re.IGNORECASE,
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")

STYLE, SHOT = "Realistic", "Medium"
CHINESE_STYLE, CHINESE_SHOT = "真实", "中景"


def prompt_problems(prompt: str) -> list[str]:
    """What a prompt lacks of the form, one phrase each; empty for a complete one.

    >>> prompt_problems("A gray squirrel holding a chestnut. Realistic style. Medium shot.")
    ['does not say that the background is transparent']
    """
    return list(_missing(prompt).values())


def suggested_prompt(prompt: str) -> str:
    """The prompt with what it lacks added in its own language: transparent background, realistic style, medium shot.

    >>> suggested_prompt("A red fox. Flat style. Close shot.")
    'The background of this video is transparent. A red fox. Flat style. Close shot.'
    """
    missing = _missing(prompt)
    text = prompt.strip()
    if _CHINESE.search(text):
        text = text if text.endswith(("。", "！", "？", ".")) or not text else text + "。"
        text = ("视频背景是透明的。" if "background" in missing else "") + text
        return text + (f"{CHINESE_STYLE}风格。" if "style" in missing else "") + (f"{CHINESE_SHOT}。" if "shot" in missing else "")
    text = text if text.endswith((".", "!", "?")) or not text else text + "."
    before = ["The background of this video is transparent."] if "background" in missing else []
    after = [f"{STYLE} style."] * ("style" in missing) + [f"{SHOT} shot."] * ("shot" in missing)
    return " ".join([*before, *([text] if text else []), *after])


def build_prompt(subject: str, *, style: str = STYLE, shot: str = SHOT) -> str:
    """A prompt in the published form: transparent background, subject, style ("Realistic", "3D cartoon"), shot ("Medium", "Close-up").

    A Chinese subject gives a Chinese prompt; then style and shot are Chinese words as well (default 真实, 中景).

    >>> build_prompt("a white fox shakes its fur", style="3D cartoon", shot="Close")
    'The background of this video is transparent. A white fox shakes its fur. 3D cartoon style. Close shot.'
    """
    subject = subject.strip().rstrip(".。")
    if _CHINESE.search(subject):
        style, shot = (CHINESE_STYLE if style == STYLE else style), (CHINESE_SHOT if shot == SHOT else shot)
        return f"视频背景是透明的。{subject}。{style}风格。{shot}。"
    return f"The background of this video is transparent. {subject[:1].upper()}{subject[1:]}. {style} style. {shot} shot."


def _missing(prompt: str) -> dict[str, str]:
    """Part of the form -> what is wrong with it."""
    problems = {}
    if _OPAQUE.search(prompt):
        problems["contradiction"] = "says that the background is not transparent"
    elif not _TRANSPARENT.search(prompt):
        problems["background"] = "does not say that the background is transparent"
    rest = _TRANSPARENT.sub(" ", prompt)
    if not _STYLE.search(rest):
        problems["style"] = "names no style"
    if not _SHOT.search(rest):
        problems["shot"] = "names no shot size"
    if not _EMPTY_WORDS.sub("", _SHOT.sub(" ", _STYLE.sub(" ", rest))):
        problems["subject"] = "names no subject"
    return problems
