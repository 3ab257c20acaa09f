"""Pictures of transparent clips, tensors in [0, 1]: checkerboards, and the contact sheet that every stage writes."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wan_alpha.errors import UsageError
from wan_alpha.media.write import write_png
from wan_alpha.rgba import METRIC_COLOURS, over, to_uint8

Picture = Float[Tensor, "3 H W"]
Rgb = Float[Tensor, "3 T H W"]
Alpha = Float[Tensor, "1 T H W"]
Panel = Literal["checkerboard", "black", "white", "magenta", "alpha"]

PANELS: tuple[Panel, ...] = ("checkerboard", "black", "white", "alpha")
LIGHT, DARK, SQUARE = 255, 200, 8
REFERENCE_BOARD = 512
GAP = 2
GAP_GREY = 0.35


def checkerboard(height: int, width: int, *, square: int = SQUARE, light: int = LIGHT, dark: int = DARK) -> Picture:
    """Squares of `square` pixels at frame size, never stretched; the first square is dark. Levels in 0-255."""
    y, x = torch.arange(height)[:, None] // square, torch.arange(width)[None] // square
    board = torch.where((x + y) % 2 == 0, dark, light) / 255
    return board.expand(3, height, width)


def reference_checkerboard(height: int, width: int) -> Picture:
    """The published board: drawn at 512 x 512 with squares one pixel too large, stretched to the frame, rounded to 8 bits."""
    board = torch.full((REFERENCE_BOARD, REFERENCE_BOARD), float(LIGHT))
    for y in range(0, REFERENCE_BOARD, SQUARE):
        for x in range(0, REFERENCE_BOARD, SQUARE):
            if (y + x) // SQUARE % 2 == 0:
                board[y : y + SQUARE + 1, x : x + SQUARE + 1] = DARK
    stretched = F.interpolate(board[None, None], size=(height, width), mode="bilinear", align_corners=False)
    return (stretched[0, 0].round() / 255).expand(3, height, width)


def composite(rgb: Rgb, alpha: Alpha, picture: Picture) -> Rgb:
    """The clip over a still picture; both clamped to [0, 1]."""
    return over(rgb.clamp(0, 1), alpha.clamp(0, 1), picture[:, None])


def panel(rgb: Rgb, alpha: Alpha, *, kind: Panel) -> Rgb:
    """One view of a clip: over a checkerboard or a plain colour, or its alpha as grey."""
    if kind == "alpha":
        return alpha.clamp(0, 1).expand_as(rgb)
    height, width = rgb.shape[-2:]
    if kind == "checkerboard":
        return composite(rgb, alpha, checkerboard(height, width).to(rgb))
    return composite(rgb, alpha, rgb.new_tensor(METRIC_COLOURS[kind])[:, None, None].expand(3, height, width))


def contact_sheet(clips: list[tuple[Tensor, Tensor]], *, frames: int = 3, panels: tuple[Panel, ...] = PANELS) -> Picture:
    """One row per clip: for each panel, `frames` frames spread evenly over the clip. Two grey pixels between pictures.

    clips: (rgb (3, T, H, W), alpha (1, T, H, W)); T may differ, and a clip that is smaller than the largest stands in its middle.
    """
    if not clips:
        raise UsageError("contact sheet", got="no clips", expected="at least one")
    height, width = (max(alpha.shape[axis] for _, alpha in clips) for axis in (-2, -1))
    rows = []
    for rgb, alpha in [(_centred(rgb, height, width), _centred(alpha, height, width)) for rgb, alpha in clips]:
        chosen = torch.linspace(0, rgb.shape[1] - 1, frames).round().long()
        views = [panel(rgb[:, chosen], alpha[:, chosen], kind=kind).unbind(dim=1) for kind in panels]
        rows.append(_join([picture for view in views for picture in view], dim=2))
    return _join(rows, dim=1)


def above_each_other(truths: list[tuple[Tensor, Tensor]], predictions: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The rows of a sheet that compares: each truth, and below it its prediction."""
    return [clip for pair in zip(truths, predictions, strict=True) for clip in pair]


def write_sheet(
    clips: list[tuple[Tensor, Tensor]], path: Path, *, frames: int = 3, panels: tuple[Panel, ...] = PANELS, record: str | None = None
) -> None:
    """`contact_sheet` as PNG, written whole or not at all. record: JSON of how the clips were made, for the file to carry."""
    write_png(to_uint8(contact_sheet(clips, frames=frames, panels=panels)).permute(1, 2, 0).numpy(), path, record=record)


def _centred(x: Float[Tensor, "c T H W"], height: int, width: int) -> Float[Tensor, "c T h w"]:
    top, left = (height - x.shape[-2]) // 2, (width - x.shape[-1]) // 2
    return F.pad(x, (left, width - x.shape[-1] - left, top, height - x.shape[-2] - top))


def _join(pictures: list[Tensor], *, dim: int) -> Tensor:
    """Pictures (3, H, W) side by side along dim, GAP grey pixels between them."""
    shape = list(pictures[0].shape)
    shape[dim] = GAP
    gap = pictures[0].new_full(shape, GAP_GREY)
    pieces = [piece for picture in pictures for piece in (picture, gap)]
    return torch.cat(pieces[:-1], dim=dim)
