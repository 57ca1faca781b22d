"""Settings of training: which are refused, the learning rate over the updates, and the optimizer's corrections."""

import numpy as np
import pytest
from tiny_task import Items, parameter, tiny_config, tiny_trainer

from svd.config import ConfigError
from svd.training.config import (
    DiscriminatorConfig,
    LoRAConfig,
    LossConfig,
    OptimizerConfig,
    PreviewConfig,
    TrainConfig,
)
from svd.training.optimizer import AdamW, WeightAverage, learning_rate

REFUSED = [
    (LossConfig, {"p_std": -0.1}),
    (LossConfig, {"noise_aug_std": float("nan")}),
    (LossConfig, {"drop_context": 1.1}),
    (LossConfig, {"drop_concat": -0.1}),
    (LossConfig, {"perceptual_weight": -1.0}),
    (LossConfig, {"single_frames": -1}),
    (DiscriminatorConfig, {"weight": 0.0}),
    (DiscriminatorConfig, {"weight": float("nan")}),
    (DiscriminatorConfig, {"learning_rate": 0.0}),
    (DiscriminatorConfig, {"start": -1}),
    (DiscriminatorConfig, {"channels": 0}),
    (DiscriminatorConfig, {"channels": 48}),
    (DiscriminatorConfig, {"layers": 0}),
    (PreviewConfig, {"clips": -1}),
    (LoRAConfig, {"rank": -1}),
    (LoRAConfig, {"alpha": 0.0}),
    (LoRAConfig, {"alpha": float("nan")}),
    (LoRAConfig, {"modules": []}),
    (OptimizerConfig, {"learning_rate": 0.0}),
    (OptimizerConfig, {"learning_rate": float("inf")}),
    (OptimizerConfig, {"eps": 0.0}),
    (OptimizerConfig, {"max_grad_norm": 0.0}),
    (OptimizerConfig, {"betas": (0.9, 1.0)}),
    (OptimizerConfig, {"betas": (0.0, 0.999)}),
    (OptimizerConfig, {"warmup_updates": -1}),
    (OptimizerConfig, {"weight_decay": -0.1}),
    (OptimizerConfig, {"ema_decay": 1.0}),
    (PreviewConfig, {"every": 0}),
    (PreviewConfig, {"sampling_steps": 0}),
    (TrainConfig, {"epochs": 0}),
    (TrainConfig, {"epochs": float("inf")}),
    (TrainConfig, {"updates": 0}),
    (TrainConfig, {"batch_size": 0}),
    (TrainConfig, {"gradient_accumulation": 0}),
    (TrainConfig, {"checkpoint_every": 0}),
    (TrainConfig, {"keep_checkpoints": 0}),
    (TrainConfig, {"log_every": 0}),
    (TrainConfig, {"workers": -1}),
    (TrainConfig, {"seed": -1}),
    # larger than is reasonable, or than float32 can hold
    (LossConfig, {"p_mean": float("inf")}),
    (LossConfig, {"noise_aug_mean": -1e300}),
    (LossConfig, {"p_std": 1e300}),
    (LossConfig, {"kl_weight": 1e300}),
    (LoRAConfig, {"rank": 10**9}),
    (LoRAConfig, {"alpha": 1e300}),
    (OptimizerConfig, {"learning_rate": 1e300}),
    (OptimizerConfig, {"eps": 1e-300}),
    (OptimizerConfig, {"max_grad_norm": 1e300}),
    (OptimizerConfig, {"weight_decay": float("inf")}),
    (OptimizerConfig, {"weight_decay": float("nan")}),
    (OptimizerConfig, {"betas": (0.9, 1 - 1e-12)}),
    (OptimizerConfig, {"ema_decay": float("nan")}),
    (OptimizerConfig, {"warmup_updates": 10**12}),
    (PreviewConfig, {"sampling_steps": 10**9}),
    (PreviewConfig, {"seed": -1}),
    (TrainConfig, {"epochs": 1e300}),
    (TrainConfig, {"updates": 10**8}),
    (TrainConfig, {"batch_size": 10**9}),
    (TrainConfig, {"gradient_accumulation": 10**9}),
    (TrainConfig, {"keep_checkpoints": 10**12}),
    (TrainConfig, {"workers": 10**6}),
    (TrainConfig, {"seed": 10**400}),
    (TrainConfig, {"item_seconds": 0.5}),
    (TrainConfig, {"item_seconds": float("nan")}),
]


@pytest.mark.parametrize("part, setting", REFUSED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_is_refused_is_named(part, setting):
    """In one line, with its value."""
    (name, value), needed = setting.popitem(), {"dataset": Items()} if part is TrainConfig else {}
    with pytest.raises(ConfigError) as error:
        part(**needed, **{name: value})
    shown = str(value) if len(str(value)) <= 40 else f"a number of {len(str(value))} digits"
    assert f".{name} " in str(error.value) and shown in str(error.value) and "\n" not in str(error.value)


def test_bounds_that_are_allowed():
    LossConfig(p_std=0, noise_aug_std=0, drop_context=0, drop_concat=1)
    OptimizerConfig(warmup_updates=0, weight_decay=0, ema_decay=0)
    TrainConfig(Items(), workers=0, seed=0, epochs=0.01)


@pytest.mark.parametrize("name", ["output_dir", "pretrained", "resume"])
def test_paths_without_zero_bytes(name):
    with pytest.raises(ConfigError, match=f"^train.{name} has a zero byte"):
        TrainConfig(Items(), **{name: "a\0b"})


def test_epochs_of_more_updates_than_names_can_count(tmp_path):
    with pytest.raises(ConfigError, match=r"^train.epochs makes 600,000,000 updates, more than 99,999,999: lower it$"):
        tiny_trainer(tiny_config(tmp_path, updates=None, epochs=2e8))


# --- the learning rate ---


def rates(updates: int, **settings) -> list[float]:
    """Of every update, as parts of the full one."""
    config = OptimizerConfig(learning_rate=2e-3, **settings)
    return [learning_rate(config, update, updates) / 2e-3 for update in range(1, updates + 1)]


def test_constant_after_a_warm_up():
    np.testing.assert_allclose(rates(7, warmup_updates=4), [0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert rates(3, warmup_updates=0) == [1, 1, 1]


def test_cosine_after_a_warm_up():
    """From the full rate to zero in the last update, half of it halfway."""
    result = rates(10, warmup_updates=2, schedule="cosine")
    half = np.sqrt(0.5) / 2
    np.testing.assert_allclose(
        np.array(result)[[0, 1, 3, 5, 7, 9]], [0.5, 1, 0.5 + half, 0.5, 0.5 - half, 0], atol=1e-12
    )
    assert all(a > b for a, b in zip(result[1:], result[2:]))
    assert rates(1, warmup_updates=0, schedule="cosine") == [0]


@pytest.mark.parametrize("updates", [3, 5])
def test_a_warm_up_that_outlasts_the_run(updates):
    result = rates(updates, warmup_updates=5, schedule="cosine")
    np.testing.assert_allclose(result, [0.2, 0.4, 0.6, 0.8, 1][:updates])


# --- the optimizer ---


def test_coefficients_correct_the_bias():
    """In float64: the algorithm without correction, with these, is AdamW as it was published."""
    config = OptimizerConfig(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    optimizer = AdamW([parameter("p", np.zeros(3))], config)
    rng = np.random.default_rng(0)
    weight = expected = rng.standard_normal(3)
    m, v = np.zeros(3), np.zeros(3)
    for n in range(1, 6):
        gradient, rate = rng.standard_normal(3), 0.1 / n
        m, v = 0.8 * m + 0.2 * gradient, 0.95 * v + 0.05 * gradient**2
        lr, eps, decay = optimizer.coefficients(n, rate)
        weight = weight - lr * (m / (np.sqrt(v) + eps) + decay * weight)
        corrected = m / (1 - 0.8**n) / (np.sqrt(v / (1 - 0.95**n)) + 1e-3)
        expected = expected - rate * (corrected + 0.1 * expected)
        np.testing.assert_allclose(weight, expected, rtol=1e-12)


def test_coefficients_by_hand():
    """In the first update sqrt(1 - 0.999) / (1 - 0.9) of the learning rate; after very many, none is corrected."""
    config = OptimizerConfig(eps=1e-8, weight_decay=0.01)
    optimizer = AdamW([parameter("p", np.zeros(3))], config)
    np.testing.assert_allclose(optimizer.coefficients(1, 1.0), [0.316227766, 3.16227766e-10, 0.0316227766], rtol=1e-6)
    np.testing.assert_allclose(optimizer.coefficients(10**6, 1.0), [1, 1e-8, 0.01])


def test_the_average_warms_up():
    average = WeightAverage([parameter("p", np.arange(3))], decay=0.9)
    rates = [average.rate(n) for n in (1, 2, 10, 80, 81, 1000)]
    np.testing.assert_allclose(rates, [1 - 2 / 11, 1 - 3 / 12, 1 - 11 / 20, 1 - 81 / 90, 0.1, 0.1])
    assert average.averages[0].asnumpy().tolist() == [0, 1, 2]  # it begins at the weights


def test_an_average_begins_anew():
    weight = parameter("p", np.arange(3))
    average = WeightAverage([weight], decay=0.9)
    weight.set_data(parameter("q", np.ones(3)))
    assert average.averages[0].asnumpy().tolist() == [0, 1, 2]
    average.restart()
    assert average.averages[0].asnumpy().tolist() == [1, 1, 1]


def test_states_are_float32_zeros_of_the_parameters_shapes():
    optimizer = AdamW([parameter("p", np.ones((2, 3))), parameter("q", np.ones(1))], OptimizerConfig())
    for states in (optimizer.exp_avg, optimizer.exp_avg_sq):
        assert [(s.shape, str(s.dtype), s.asnumpy().any()) for s in states] == [
            ((2, 3), "Float32", False), ((1,), "Float32", False)]  # fmt: skip
    names = [s.name for states in (optimizer.exp_avg, optimizer.exp_avg_sq) for s in states]
    assert names == ["exp_avg.p", "exp_avg.q", "exp_avg_sq.p", "exp_avg_sq.q"]
