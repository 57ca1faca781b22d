"""The order of samples: every item once in each epoch, the same for all ways to divide it up."""

import numpy as np
import pytest

from svd.seeds import Purpose, SampleOrder, generator, samples_of_batch


def test_a_generator_is_repeatable_and_differs_in_all_that_it_is_made_from():
    keys = [
        (0, 0, Purpose.DATA),
        (1, 0, Purpose.DATA),
        (0, 1, Purpose.DATA),
        (0, 0, Purpose.LOSS),
        (0, 0, Purpose.ORDER),
        (0, 0, Purpose.REPLACEMENT),
        (0, 10**12, Purpose.DATA),
    ]
    draws = [generator(*key).random() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [generator(*key).random() for key in keys]


def test_purposes_keep_their_numbers():
    """What is trained, cached or begun once is repeated by later versions."""
    names = ["DATA", "LOSS", "ORDER", "REPLACEMENT", "ADAPTERS", "INITIALIZATION", "FRAMES", "TIMESTEPS", "GIVEN"]
    names += ["WINDOW", "DROPOUT", "CAPTION", "UPSAMPLING"]
    numbers = {name: number for number, name in enumerate(names)}
    assert {purpose.name: int(purpose) for purpose in Purpose} == numbers
    assert generator(1, 2, Purpose.FRAMES).random() == np.random.default_rng([1, 6, 2]).random()


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_every_item_once_in_each_epoch(n):
    order = SampleOrder(3, n)
    epochs = np.array([order.index(sample) for sample in range(5 * n)]).reshape(5, n)
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()
    if n > 2:
        assert len({tuple(epoch) for epoch in epochs}) == 5  # shuffled anew


def test_the_order_depends_on_the_seed_and_on_nothing_asked_before():
    samples = [250, 3, 99, 100, 101, 0, 10**9, 199, 98]
    order = SampleOrder(0, 100)
    assert [order.index(s) for s in samples] == [SampleOrder(0, 100).index(s) for s in samples]
    assert [order.index(s) for s in samples] != [SampleOrder(1, 100).index(s) for s in samples]


def test_a_border_between_epochs_is_not_shuffled_again_and_again(monkeypatch):
    made = []
    monkeypatch.setattr("svd.seeds.generator", lambda *key: made.append(key) or generator(*key))
    order = SampleOrder(0, 10)
    for sample in (8, 9, 10, 9, 11, 8, 12, 19, 20, 19, 21):
        order.index(sample)
    assert [epoch for _, epoch, _ in made] == [0, 1, 2]


@pytest.mark.parametrize("ranks, batch_size", [(1, 1), (1, 4), (2, 2), (4, 1), (3, 5)])
def test_ranks_share_all_samples_without_overlap(ranks, batch_size):
    seen = [s for batch in range(7) for rank in range(ranks) for s in samples_of_batch(batch, batch_size, rank, ranks)]
    assert seen == list(range(7 * ranks * batch_size))
