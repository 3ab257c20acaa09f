"""preview: an RGBA clip, folder or table of them -> one PNG, a row of frames per clip over checkerboard, black and white, and its alpha."""

from dataclasses import dataclass
from pathlib import Path

from wan_alpha.clip_sheet import draw_sheet
from wan_alpha.config import PreviewConfig
from wan_alpha.data.sources import clips_of
from wan_alpha.errors import UsageError
from wan_alpha.media.read import ReadSettings


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What was drawn. `pictures` are shown on terminals that can."""

    pictures: tuple[Path, ...]
    rows: tuple[str, ...]
    left_out: int
    problems: tuple[str, ...] = ()
    """What is wrong with each clip that could not be drawn."""

    def summary(self) -> list[str]:
        more = f", {self.left_out} more left out (--max_rows)" if self.left_out else ""
        return [f"{self.pictures[0]}: {', '.join(self.rows)}{more}", *(f"not drawn: {problem}" for problem in self.problems)]


def preview(config: PreviewConfig) -> Preview:
    """Draw the sheet. Clips of different sizes stand in the middle of rows of the largest one's size; one that cannot be read is named."""
    if config.output_path.suffix.lower() != ".png":
        raise UsageError("--output_path", got=config.output_path, expected="a name that ends in .png")
    found = clips_of(config.source)
    drawn = draw_sheet(
        found[: config.max_rows],
        config.output_path,
        frames=config.frames,
        max_side=config.max_side,
        settings=ReadSettings(alpha_mode=config.source_alpha, matrix=config.matrix),
    )
    left_out = max(0, len(found) - config.max_rows)
    return Preview(pictures=(config.output_path,), rows=drawn.rows, left_out=left_out, problems=drawn.problems)
