"""What can be wrong with a caption."""

from wan_alpha.findings.finding import Finding
from wan_alpha.prompts import prompt_problems, suggested_prompt


def caption_findings(prompt: str) -> list[Finding]:
    """Empty, or without Wan-Alpha's form (transparent background, subject, style, shot)."""
    if not prompt.strip():
        do = "write what the clip shows to a .txt beside it, or use --caption_command"
        return [Finding(name="empty caption", severity="warning", says="nothing says what the clip shows", do=do)]
    problems = prompt_problems(prompt)
    if not problems:
        return []
    do = f"for example: {suggested_prompt(prompt)}"
    return [
        Finding(
            name="caption form", severity="note", says=f"the caption {', '.join(problems)}", do=do, value=float(len(problems)), limit=0.0
        )
    ]
