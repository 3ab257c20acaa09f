import pytest
import torch
from torch.utils.data import DataLoader

from wan_alpha.data import stream as stream_module
from wan_alpha.data.stream import PositionStream
from wan_alpha.errors import MediaError


def square(position):
    if position == 5:
        raise MediaError("clip.mp4", got="nothing")
    return position * position


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_come_in_order_and_after_a_jump(num_workers):
    stream = PositionStream(square, num_workers=num_workers)
    assert stream.take([0, 1]) + stream.take([2]) + stream.take([7]) == [0, 1, 4, 49]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_keeps_its_one_line(num_workers):
    with pytest.raises(MediaError) as caught:
        PositionStream(square, num_workers=num_workers).take([4, 5])
    assert str(caught.value) == "clip.mp4: got nothing"


def test_processes_side_by_side_read_on_without_starting_anew(monkeypatch):
    started = []
    monkeypatch.setattr(stream_module, "DataLoader", lambda *args, **kwargs: started.append(1) or DataLoader(*args, **kwargs))
    stream = PositionStream(lambda position: position, batch_size=2, processes=3)
    taken = [stream.take([first, first + 1]) for first in (2, 8, 14)]
    assert taken == [[2, 3], [8, 9], [14, 15]]
    assert len(started) == 1
    assert stream.take([6, 7]) == [6, 7]
    assert len(started) == 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_leaves_the_process_wide_generator_alone(num_workers):
    before = torch.get_rng_state()
    PositionStream(square, num_workers=num_workers).take([0])
    assert torch.equal(torch.get_rng_state(), before)
