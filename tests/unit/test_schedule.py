from dataclasses import replace
from itertools import chain

import pytest

from wan_alpha.config import TrainConfig
from wan_alpha.data.draws import BatchOrder
from wan_alpha.data.shares import Share
from wan_alpha.train.schedule import learning_rate_at, positions_of, total_steps

CONFIG = TrainConfig(max_steps=4, learning_rate=0.1, warmup_steps=2, batch_size=2)


def test_learning_rate():
    assert learning_rate_at(CONFIG, step=0, total=100) == pytest.approx(0.05)
    assert learning_rate_at(CONFIG, step=50, total=100) == pytest.approx(0.1)
    cosine = replace(CONFIG, decay="cosine")
    assert learning_rate_at(cosine, step=50, total=100) == pytest.approx(0.1 * 0.51)
    assert learning_rate_at(cosine, step=100, total=100) == pytest.approx(0.1 * 0.02)


def test_steps():
    config = replace(CONFIG, max_steps=None, num_epochs=3)
    assert total_steps(config, num_clips=5) == 9
    assert total_steps(replace(config, dataset_repeat=2), num_clips=5) == 15
    assert total_steps(config, num_clips=5, processes=2) == 6


@pytest.mark.parametrize("accumulation", [1, 3])
def test_processes_walk_the_samples_of_one_process_with_the_whole_batch(accumulation):
    config = replace(CONFIG, gradient_accumulation_steps=accumulation)
    whole = replace(config, batch_size=config.batch_size * 2)
    for step in range(3):
        shares = [
            [positions_of(config, step=step, micro_batch=m, share=Share(rank=i, count=2)) for i in range(2)] for m in range(accumulation)
        ]
        assert [first + second for first, second in shares] == [positions_of(whole, step=step, micro_batch=m) for m in range(accumulation)]


def test_micro_batches_follow_each_other():
    assert positions_of(replace(CONFIG, batch_size=1, gradient_accumulation_steps=2), step=3, micro_batch=1) == [7]


def test_with_buckets_processes_are_as_accumulation_not_as_a_larger_batch():
    """Which clips, of three shapes, each optimiser step sees over two epochs."""

    def seen(count, **sizes):
        config = TrainConfig(**sizes)
        order = BatchOrder("aaaaabbbbccc", batch_size=config.batch_size, seed=3)
        micro_batches = range(config.gradient_accumulation_steps)

        def step_of(step):
            shares = [Share(rank=rank, count=count) for rank in range(count)]
            walked = [positions_of(config, step=step, micro_batch=micro, share=share) for micro in micro_batches for share in shares]
            return [[order.index_at(position) for position in positions] for positions in walked]

        return [step_of(step) for step in range(8)]

    assert seen(2, batch_size=2) == seen(1, batch_size=2, gradient_accumulation_steps=2)
    beside, larger = ([sorted(chain(*batches)) for batches in steps] for steps in (seen(2, batch_size=2), seen(1, batch_size=4)))
    assert beside != larger
