"""Costs on paper, against diffusers' network, the compiled graph, and sums by hand."""

from collections import Counter
from dataclasses import replace

import mindspore as ms
import pytest
from device import cpu_only
from mindspore import nn, ops
from small_model import SMALL

from scripts.costs import __main__ as script
from scripts.costs.networks import Clip, Training, encoder_steps, parts, trace_unet, training_memory
from scripts.costs.steps import Step, forward_steps, live_bytes, training_steps, update_steps
from scripts.costs.trace import Array, Operators, Trace
from svd.config import ModelConfig
from svd.layers.basic import Linear
from svd.layers.marks import temporal_parameters
from svd.networks.blocks.svd import svd_unet
from svd.training.config import OptimizerConfig
from svd.training.optimizer import AdamW, WeightAverage
from svd.training.step import TrainStep, host_scalar

pytestmark = cpu_only("what is computed on paper is checked on CPU")

CLIPS, CLIP = 2, Clip(3, 64, 128)
UNET = SMALL.unet
NOTHING = Training("nothing", dtype=ms.float32)
TEMPORAL = Training("temporal", dtype=ms.float32)
EMBEDDED_ONCE = {"Cast", "Mul", "Concat", "Cos", "Sin"}
"""Operators of constants, which the compiler computes once for all transformers of a width."""


def flops(steps: list[Step], *kinds: str) -> int:
    return sum(step.flops for step in steps if step.kind in kinds)


def trace(training: Training) -> Trace:
    return trace_unet(UNET, CLIP.unet_inputs(CLIPS, UNET), training)


def test_parameters_of_the_full_model():
    """The trace meets all weights but those that a single context token makes needless."""
    config = ModelConfig().unet
    full = trace_unet(config, Clip(2, 128, 128).unet_inputs(1, config), Training("temporal"))
    parameters = {p.name: p for p in full.network.get_parameters()}
    assert sum(p.size for p in parameters.values()) == 1_524_623_082
    assert sum(p.size for p in parameters.values() if p.requires_grad) == 656_076_838
    met = {value.array for node in full.nodes for value in node.inputs if hasattr(value, "array")}
    needless = {name for name, p in parameters.items() if full.weight(p).array not in met}
    assert {name.rsplit(".", 3)[-3:][0] + "." + name.split(".")[-2] for name in needless} == {
        "attn2.to_q",
        "attn2.to_k",
        "spatial.norm2",
        "temporal.norm2",
    }


# Operations, against PyTorch's own counter.


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, int]]:
    """Operations of diffusers' network by operator: of the way forward, and of it and the way back."""
    torch = pytest.importorskip("torch")
    for library in ("diffusers", "transformers"):
        pytest.importorskip(library)
    from parity.torch_models import torch_unet
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    network = torch_unet(UNET, CLIP.frames)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("temporal" in name or "time_mixer" in name or "time_pos_embed" in name)
    latents, c_noise, context, _ = (torch.zeros(shape) for shape in CLIP.unet_inputs(CLIPS, UNET))
    with sdpa_kernel(SDPBackend.MATH):  # the operators of PyTorch's other kernels of attention are not all counted
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            network(latents, c_noise, context, torch.zeros(CLIPS, 3))
        with FlopCounterMode(display=False) as training:
            network(latents, c_noise, context, torch.zeros(CLIPS, 3)).sample.sum().backward()
    counters = {"forward": forward, "training": training}
    return {
        name: {str(key).removeprefix("aten."): n for key, n in counter.get_flop_counts()["Global"].items()}
        for name, counter in counters.items()
    }


def saved_operations(full: Trace) -> int:
    """What diffusers computes more: queries, keys and scores of the cross-attention over a single token, its values
    once per group and its result once per token in place of once per clip, and the frames' positions once per clip."""
    inputs = {node.part: node.inputs[0].shape for node in full.nodes if node.part.endswith(".attn1.to_q")}
    saved, d = 0, UNET.context_dim
    for name, (groups, tokens, c) in inputs.items():
        saved += 2 * groups * (tokens * c * c + d * c) + 2 * (groups - CLIPS) * d * c + 4 * groups * tokens * c
        saved += 2 * (groups * tokens - CLIPS) * c * c
        if ".temporal." in name:
            saved += (CLIPS - 1) * CLIP.frames * 2 * (c * 4 * c + 4 * c * c)
    return saved


def test_operations_are_those_of_diffusers(counted):
    full = trace(NOTHING)
    steps = forward_steps(full.nodes)
    assert flops(steps, "convolutions") == counted["forward"]["convolution"]
    assert flops(steps, "convolutions", "projections", "attention") == sum(counted["forward"].values()) - (
        saved_operations(full)
    )
    assert saved_operations(full) > 0


def test_derivatives_of_convolutions_are_those_of_diffusers(counted):
    steps = training_steps(trace(TEMPORAL))
    theirs = counted["training"]["convolution"] + counted["training"]["convolution_backward"]
    assert flops(steps, "convolutions") == theirs > counted["forward"]["convolution"]


def test_recomputing_costs_a_second_way_forward_at_most():
    forward, plain, again = (
        sum(step.flops for step in steps)
        for steps in (
            forward_steps(trace(NOTHING).nodes),
            training_steps(trace(TEMPORAL)),
            training_steps(trace(replace(TEMPORAL, recompute=True))),
        )
    )
    assert 0.7 * forward < again - plain < forward


# Kernels, against the compiled graph.


def test_kernels_are_those_of_the_compiled_graph(eager):
    small = trace(Training("nothing"))
    inputs = [script.tensor(*shape) for shape in CLIP.unet_inputs(CLIPS, UNET)]
    graph, ours = script.compiled(small.network, inputs), Counter(s.primitive for s in forward_steps(small.nodes))
    assert {name: n for name, n in graph.items() if name not in EMBEDDED_ONCE} == {
        name: n for name, n in ours.items() if name not in EMBEDDED_ONCE
    }
    assert graph["FlashAttentionScore"] > 0


class Sum(nn.Cell):
    """The sum of a linear layer's results, as a loss."""

    def __init__(self):
        super().__init__()
        self.layer = Linear(3, 2)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return ops.reduce_sum(self.layer(x))


def test_the_update_is_that_of_the_compiled_graph(eager):
    loss = Sum()
    trained = loss.trainable_params()
    step = TrainStep(loss, AdamW(trained, OptimizerConfig()), trained, WeightAverage(trained, 0.999))
    scalar, true = host_scalar(1.0), host_scalar(True)
    graph = script.compiled(step, [scalar, true, script.tensor(3), scalar, script.tensor(4, 3)])
    ours = Counter(step.primitive for step in update_steps([(p.size, Array(4 * p.size)) for p in trained]))
    assert {name: graph[name] - n for name, n in ours.items() if graph[name] != n} == {"Add": 1, "Mul": 1}  # the norm's


# Memory.


def test_memory_of_steps_by_hand():
    a, b, c, weight = Array(1), Array(10), Array(100), Array(1000, weight=True)
    steps = [
        Step("x", "", 0, [a, weight], [b]),  # a and b
        Step("x", "", 0, [b], [c]),  # a, b and c
        Step("x", "", 0, [c], [a]),  # a and c
        Step("x", "", 0, [], [], holds=(c,)),
    ]
    assert live_bytes(steps) == [11, 111, 101, 100]


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_grows_with_what_is_trained_and_with_frames(recompute):
    def memory(trained: str, frames: int = 3):
        shapes = replace(CLIP, frames=frames).unet_inputs(1, UNET)
        return training_memory(UNET, shapes, Training(trained, recompute, rank=4))

    lora, temporal, everything = (memory(trained) for trained in ("lora", "temporal", "all"))
    assert lora.states < temporal.states < everything.states
    assert lora.weights < temporal.weights < everything.weights
    totals = [m.weights + m.states + m.peak for m in (lora, temporal, everything)]
    assert totals == sorted(set(totals))
    three, six, nine = (memory("temporal", frames).kept for frames in (3, 6, 9))
    assert nine - six == pytest.approx(six - three, rel=0.05) and six > 1.5 * three
    masters = sum(p.size for p in temporal_parameters(trace(TEMPORAL).network))
    assert temporal.states == 3 * 4 * masters


def test_recomputing_keeps_less_and_a_tape_keeps_more():
    shapes = CLIP.unet_inputs(1, UNET)
    plain, again, tape = (
        training_memory(UNET, shapes, replace(TEMPORAL, **change))
        for change in ({}, {"recompute": True}, {"tape": True})
    )
    assert again.kept < plain.kept / 5 and again.peak < plain.peak < tape.peak


def test_adapters_have_the_size_of_their_rank():
    lora = trace(Training("lora", rank=4))
    adapters = [value for value in lora.weights.values() if value.needs_gradient]
    c, context = UNET.model_channels * UNET.channel_mult[1], UNET.context_dim
    assert {value.shape for value in adapters} == {(4, c), (c, 4), (4, context)}
    assert len(adapters) == len(lora.network.trainable_params()) > 0 and len(adapters) % 12 == 0
    products = [node.inputs[1].shape for node in lora.nodes if node.primitive == "Dense"]
    assert len(products) - len([n for n in trace(NOTHING).nodes if n.primitive == "Dense"]) == len(adapters)


# The rest.


@pytest.mark.parametrize(
    "name, expected",
    [
        ("down_blocks.1.resnets.0.spatial.conv1", "residual blocks, space"),
        ("mid_block.resnets.0.temporal.norm1", "residual blocks, time"),
        ("mid_block.attentions.0.proj_in", "transformers, space"),
        ("mid_block.attentions.0.frame_embedding.linear_1", "transformers, time"),
        ("mid_block.attentions.0.blend", "transformers, time"),
        ("conv_in", "the rest"),
        ("update", "update"),
    ],
)
def test_parts(name, expected):
    assert parts(svd_unet(UNET)).get(name, "the rest") == expected


def test_encoders_are_counted():
    small, large = (encoder_steps(SMALL, Clip(1, size, size))["encoder"] for size in (16, 32))
    assert flops(large, "convolutions") == 4 * flops(small, "convolutions") > 0


def test_an_unknown_operator_is_named():
    rules = Operators(trace(NOTHING))
    with pytest.raises(NotImplementedError, match=r"no rule for ops\.cumsum"):
        getattr(rules, "cumsum")  # noqa: B009


def test_command_line(capsys):
    script.main(["performance", "--frames=[2]", "--height=64", "--width=64", "--card.tflops=300"])
    titles = [line.split(",")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("###")]
    assert titles == ["### Denoising step"] + 2 * ["### Training step"]
