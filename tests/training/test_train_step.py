"""A training step: micro-batches, clipping, and what an overflow leaves alone."""

from typing import Optional

import mindspore as ms
import numpy as np
import pytest
from comparison import relative_error
from mindspore import Tensor, nn, ops
from tiny_task import OPTIMIZER, TinyTask, assert_same, parameter, values

from svd.training.optimizer import AdamW, WeightAverage
from svd.training.step import LossScale, TrainStep, host_scalar


class Steps:
    """A step of the tiny task, and how it is called."""

    def __init__(self, micro_batches: int = 1, max_grad_norm: float = 1.0, average: bool = True):
        self.task = TinyTask()
        self.trained = list(self.task.trained.values())
        self.optimizer = AdamW(self.trained, OPTIMIZER)
        self.average = WeightAverage(self.trained, 0.9) if average else None
        self.step = TrainStep(self.task.loss, self.optimizer, self.trained, self.average, micro_batches, max_grad_norm)
        self.micro_batches = micro_batches
        self.updates = 0

    def update(self, batch: tuple[np.ndarray, ...], scale: float = 1.0) -> tuple[float, float]:
        """One update with a batch that is shared out over the micro-batches: the loss and the gradients' norm."""
        self.updates += 1
        coefficients = Tensor(np.array(self.optimizer.coefficients(self.updates, 0.02), np.float32))
        losses = []
        for i, part in enumerate(zip(*(np.split(x, self.micro_batches) for x in batch))):
            last = host_scalar(i == self.micro_batches - 1)
            loss, norm = self.step(host_scalar(scale), last, coefficients, host_scalar(0.1), *map(Tensor, part))
            losses.append(float(loss.asnumpy()))
            if i < self.micro_batches - 1:
                assert norm.asnumpy() == 0
        return np.mean(losses), float(norm.asnumpy())

    def state(self) -> list[np.ndarray]:
        """Weights, the optimizer's states and the averages."""
        averages = [] if self.average is None else self.average.averages
        return values(
            [*self.task.loss.get_parameters(), *self.optimizer.exp_avg, *self.optimizer.exp_avg_sq, *averages]
        )


def batches(count: int, size: int) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(1)
    shapes = ((size, 2, 4, 4), (size, 3))
    return [
        (*(rng.standard_normal(shape).astype(np.float32) for shape in shapes), np.zeros(size, np.float32))
        for _ in range(count)
    ]


def with_infinity(batch: tuple[np.ndarray, ...], clip: int) -> tuple[np.ndarray, ...]:
    """One clip's x has an infinite number."""
    x = batch[0].copy()
    x[clip, 0, 0, 0] = np.inf
    return (x, *batch[1:])


def test_micro_batches_equal_one_batch(mode):
    """Over several updates: losses, norms, weights, the optimizer's states and the averages; clipped and not."""
    for max_grad_norm in (0.3, 100.0) if mode else (0.3,):
        parts, whole = Steps(3, max_grad_norm), Steps(1, max_grad_norm)
        before = parts.state()
        for batch in batches(4, size=3):
            (loss, norm), (expected_loss, expected_norm) = parts.update(batch), whole.update(batch)
            np.testing.assert_allclose([loss, norm], [expected_loss, expected_norm], rtol=1e-5)
            assert norm > 0.3
        changed = [not np.array_equal(a, b) for a, b in zip(parts.state(), before)]
        assert changed.count(False) == 1  # the frozen bias
        for result, expected in zip(parts.state(), whole.state()):
            assert relative_error(result, expected) < 1e-5


def test_an_overflow_changes_nothing(mode):
    """Neither does a micro-batch of infinite numbers, nor a loss scale that is too large; the next update is as if
    there had been none."""
    first, second, third = batches(3, size=2)
    steps, never = Steps(2), Steps(2)
    steps.update(first), never.update(first)
    before = steps.state()
    for clip in (0, 1):
        loss, norm = steps.update(with_infinity(second, clip))
        assert not np.isfinite(norm)
        assert_same(steps.state(), before)
    loss, norm = steps.update(second, scale=2.0**100)
    assert np.isfinite(loss) and not np.isfinite(norm)
    assert_same(steps.state(), before)
    steps.updates = 1
    assert steps.update(third) == never.update(third)
    assert_same(steps.state(), never.state())


def test_an_overflow_of_a_single_micro_batch_changes_nothing(mode):
    batch = batches(1, size=2)[0]
    steps = Steps(1)
    before = steps.state()
    assert not np.isfinite(steps.update(with_infinity(batch, 0))[1])
    assert_same(steps.state(), before)
    assert np.isfinite(steps.update(batch)[1])
    assert not np.array_equal(steps.state()[0], before[0])


def test_the_loss_scale_does_not_change_the_result(eager):
    """Powers of two cost no bit; the loss and the norm are those without it."""
    plain, scaled = Steps(2), Steps(2)
    for batch in batches(2, size=2):
        assert plain.update(batch) == scaled.update(batch, scale=2.0**16)
    assert_same(scaled.state(), plain.state())


def test_there_need_be_no_average(eager):
    steps, averaged = Steps(average=False), Steps()
    for batch in batches(2, size=2):
        steps.update(batch), averaged.update(batch)
    assert_same(values(steps.trained), values(averaged.trained))


class Product(nn.Cell):
    """A loss whose gradient is its input: the sum of w x, and of v y."""

    def __init__(self):
        super().__init__()
        self.w, self.v = parameter("w", np.ones((2, 3))), parameter("v", np.ones(4))

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.reduce_sum(self.w * x) + ops.reduce_sum(self.v * y)


class Recorder(nn.Cell):
    """In place of the optimizer: keeps the gradients that it is given."""

    seen: Optional[list[np.ndarray]] = None

    def construct(self, gradients, coefficients):
        self.seen = [gradient.asnumpy() for gradient in gradients]


@pytest.mark.parametrize("size, clipped", [(0.01, False), (0.4, True), (1e4, True)])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_gradients_are_clipped_by_their_global_norm(eager, size, clipped, micro_batches):
    """Once, after micro-batches were averaged: those here are far larger than their mean, and cancel."""
    rng = np.random.default_rng(0)
    mean = [size * rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3), (4,))]
    offsets = {1: [0], 3: [100 * size, -300 * size, 200 * size]}[micro_batches]
    loss, optimizer = Product(), Recorder()
    step = TrainStep(loss, optimizer, [loss.w, loss.v], None, micro_batches, max_grad_norm=0.5)
    for i, offset in enumerate(offsets):
        inputs = (Tensor((value + offset).astype(np.float32)) for value in mean)
        _, norm = step(
            host_scalar(8.0), host_scalar(i == len(offsets) - 1), Tensor(np.zeros(3)), host_scalar(0.0), *inputs
        )
    expected_norm = np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in mean))
    factor = min(0.5 / (expected_norm + 1e-6), 1)
    assert (factor < 1) == clipped
    np.testing.assert_allclose(norm.asnumpy(), expected_norm, rtol=1e-4)
    for result, value in zip(optimizer.seen, mean):
        np.testing.assert_allclose(result, value * factor, rtol=2e-4, atol=1e-4 * size * factor)


# --- the loss scale ---


def test_loss_scale_halves_and_doubles():
    scale = LossScale(dynamic=True, value=1024.0, window=3)
    values = []
    for finite in (True, True, True, False, True, True, False, False, True, True, True, True):
        scale.observe(finite)
        values.append(scale.value)
    assert values == [1024, 1024, 2048, 1024, 1024, 1024, 512, 256, 256, 256, 512, 512]
    assert scale.good == 1


def test_loss_scale_begins_at_65536_and_waits_for_2000_updates():
    scale = LossScale(dynamic=True)
    for _ in range(1999):
        scale.observe(True)
    assert scale.value == 2**16
    scale.observe(True)
    assert scale.value == 2**17


def test_loss_scale_of_float32_stays_1():
    scale = LossScale(dynamic=False, value=1024.0, window=1)
    for finite in (True, False):
        scale.observe(finite)
        assert scale.value == 1 and not scale.can_shrink


def test_a_loss_scale_of_1_cannot_shrink():
    """Then an overflow is not its fault."""
    scale = LossScale(dynamic=True, value=4.0)
    assert scale.can_shrink
    scale.observe(False), scale.observe(False)
    assert scale.value == 1 and not scale.can_shrink


def test_numbers_for_the_step_are_tensors_of_one_type():
    assert host_scalar(True).dtype == ms.bool_ and host_scalar(2).dtype == host_scalar(0.5).dtype == ms.float32
    assert host_scalar(3).shape == ()
