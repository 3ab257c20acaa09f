import torch

from wan_alpha.data.draws import generator_at, index_at, normal_at


def test_noise_belongs_to_the_sample_not_to_the_batch():
    together = normal_at(3, [10, 11, 12], (2, 4))
    alone = normal_at(3, [11], (2, 4))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(normal_at(4, [11], (2, 4)), alone)


def test_every_epoch_visits_every_clip_once_in_its_own_order():
    epochs = [[index_at(7, position, count=10) for position in range(10 * e, 10 * e + 10)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_generators_are_reproducible():
    assert generator_at(1, 2).initial_seed() == generator_at(1, 2).initial_seed()
    assert generator_at(1, 2).initial_seed() != generator_at(2, 1).initial_seed()
