import numpy as np
import pytest
import torch
from PIL import Image

from wan_alpha import preview
from wan_alpha.errors import UsageError
from wan_alpha.rgba import to_uint8


def clip(num_frames: int = 5, height: int = 8, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    rgb, alpha = torch.zeros(3, num_frames, height, width), torch.zeros(1, num_frames, height, width)
    rgb[0] = 1
    alpha[..., : width // 2] = 1
    return rgb, alpha


def test_checkerboard_has_whole_squares_at_any_size() -> None:
    board = preview.checkerboard(20, 28)
    assert board.shape == (3, 20, 28)
    for y in range(20):
        for x in range(28):
            assert board[0, y, x].item() == pytest.approx((200 if (y // 8 + x // 8) % 2 == 0 else 255) / 255)
    fine = preview.checkerboard(4, 4, square=2, light=255, dark=0)
    assert fine[1].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_reference_board_has_squares_one_pixel_too_large() -> None:
    board = preview.reference_checkerboard(512, 512)[0] * 255
    assert (board[0, :9] == 200).all()
    assert (board[0, 9:16] == 255).all()
    assert (board[0, 16:25] == 200).all()
    assert preview.reference_checkerboard(32, 40).shape == (3, 32, 40)


def test_composite_shows_the_board_where_alpha_is_zero() -> None:
    rgb, alpha = clip()
    board = preview.checkerboard(8, 12)
    composite = preview.composite(rgb + 0.5, alpha, board)
    assert composite[:, 0, 0, 0].tolist() == [1, 0.5, 0.5]
    assert torch.equal(composite[:, 3, :, 6:], board[:, :, 6:])


def test_contact_sheet_layout() -> None:
    sheet = preview.contact_sheet([clip(), clip(num_frames=1)], frames=3)
    assert sheet.shape == (3, 2 * 8 + 2, 12 * 12 + 11 * 2)
    assert (sheet[:, 8:10] == preview.GAP_GREY).all()
    assert (sheet[:, :, 12:14] == preview.GAP_GREY).all()
    black, white, alpha = (panel * 3 * 14 for panel in (1, 2, 3))
    assert sheet[:, 0, black].tolist() == [1, 0, 0]
    assert sheet[:, 0, black + 11].tolist() == [0, 0, 0]
    assert sheet[:, 0, white + 11].tolist() == [1, 1, 1]
    assert sheet[:, 0, alpha].tolist() == [1, 1, 1]
    assert sheet[:, 0, alpha + 11].tolist() == [0, 0, 0]


def test_contact_sheet_shows_first_middle_and_last_frame() -> None:
    rgb, alpha = torch.arange(5).view(1, 5, 1, 1).expand(3, 5, 8, 8) / 4, torch.ones(1, 5, 8, 8)
    sheet = preview.contact_sheet([(rgb, alpha)], panels=("black",))
    assert [sheet[0, 0, x].item() for x in (0, 10, 20)] == [0, 0.5, 1]


def test_comparison_puts_the_truth_above_its_prediction() -> None:
    truth, prediction = clip(), (torch.zeros(3, 5, 8, 12), torch.ones(1, 5, 8, 12))
    sheet = preview.contact_sheet(preview.above_each_other([truth], [prediction]), frames=1, panels=("black",))
    assert sheet.shape == (3, 18, 12)
    assert sheet[0, 0, 0] == 1
    assert sheet[0, 10, 0] == 0


def test_a_smaller_clip_stands_in_the_middle_of_its_row() -> None:
    sheet = preview.contact_sheet([clip(), (torch.ones(3, 1, 4, 4), torch.ones(1, 1, 4, 4))], frames=1, panels=("alpha",))
    assert sheet.shape == (3, 18, 12)
    row = sheet[0, 10:]
    assert row[2:6, 4:8].min() == 1
    assert row.sum() == 16
    with pytest.raises(UsageError, match="no clips"):
        preview.contact_sheet([])


def test_the_sheet_as_a_file(tmp_path) -> None:
    preview.write_sheet([clip()], tmp_path / "a.png", frames=1, panels=("black", "alpha"))
    with Image.open(tmp_path / "a.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(pixels, to_uint8(preview.contact_sheet([clip()], frames=1, panels=("black", "alpha"))))
