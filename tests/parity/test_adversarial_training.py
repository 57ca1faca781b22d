"""The losses of a decoder and of its discriminators, the adaptive weight and all gradients, against PyTorch's of the
formulas written out; and the perceptual losses.
"""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import ParameterTuple, Tensor, nn, ops

from svd.layers.axes import per_image
from svd.layers.basic import conv2d, upsample_nearest
from svd.networks.discriminator import Discriminators
from svd.networks.perceptual import DEVIATION, MEAN, Dissimilarity, Lpips
from svd.training.reconstruction import LARGEST_WEIGHT, AdversarialLoss, DiscriminatorLoss, ReconstructionLoss

torch = pytest.importorskip("torch")
F = torch.nn.functional

CLIPS, FRAMES, ALONE, SIDE = 2, 3, 1, 16
KL, PERCEPTUAL, WEIGHT = 0.3, 0.7, 0.8
TOLERANCE = 1e-4
RNG = np.random.default_rng(0)
VIDEO = RNG.uniform(-1, 1, (CLIPS, FRAMES, 3, SIDE, SIDE)).astype(np.float32)
NOISE = RNG.standard_normal((CLIPS, FRAMES, 4, SIDE // 2, SIDE // 2)).astype(np.float32)
CHOSEN = np.array([1, 5], np.int32)


class TinyEncoder(nn.Cell):
    def __init__(self):
        super().__init__()
        self.pool, self.moments = nn.AvgPool2d(2, 2), conv2d(3, 8, 1)

    def construct(self, x):
        return self.moments(self.pool(x))


class TinyDecoder(nn.Cell):
    """Two convolutions of images, and one over frames as the last layer."""

    temporal = True

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = conv2d(4, 6), conv2d(6, 3), conv2d(3, 3, (3, 1))

    def features(self, z):
        x = per_image(self.first, z)
        b, t, c, h, w = x.shape
        x = upsample_nearest(ops.leaky_relu(ops.reshape(x, (b * t, c, h, w)), 0.3))
        return ops.reshape(self.second(x), (b, t, 3, 2 * h, 2 * w))

    def last_layer(self, x):
        b, t, c, h, w = x.shape
        x = ops.transpose(ops.reshape(x, (b, t, c, h * w)), (0, 2, 1, 3))
        return ops.reshape(ops.transpose(self.last(x), (0, 2, 1, 3)), (b, t, c, h, w))

    def last_weight(self):
        return self.last.weight


def filled(network: nn.Cell, scale: float, seed: int) -> nn.Cell:
    rng = np.random.default_rng(seed)
    for parameter in network.get_parameters():
        centre = float(parameter.ndim == 1 and "norms" in parameter.name and parameter.name.endswith("weight"))
        value = centre + scale * rng.standard_normal(parameter.shape)
        parameter.set_data(Tensor(value.astype(np.float32)))
    return network


class Players:
    """Both sides, with the same weights each time."""

    def __init__(self, kind: str = "both"):
        self.encoder, self.decoder = filled(TinyEncoder(), 0.5, 1), filled(TinyDecoder(), 0.4, 2)
        self.discriminators = filled(Discriminators(kind, 8, 1, 0, FRAMES, ALONE), 0.3, 3)
        self.trained = []
        for name, network in (("encoder", self.encoder), ("decoder", self.decoder)):
            for parameter in network.get_parameters():
                parameter.name = f"{name}.{parameter.name}"
                self.trained.append(parameter)
        self.opponent = list(self.discriminators.get_parameters())
        self.plain = ReconstructionLoss(self.encoder, self.decoder, KL, Dissimilarity(), PERCEPTUAL)
        self.loss = AdversarialLoss(self.plain, self.discriminators, WEIGHT)


class Gradients(nn.Cell):
    """A loss and its gradients, and what is judged before, compiled as one."""

    def __init__(self, loss: nn.Cell, parameters):
        super().__init__(auto_prefix=False)
        self.loss, self.judges = loss, isinstance(loss, AdversarialLoss)
        self.run = ms.value_and_grad(loss, None, ParameterTuple(parameters))

    def construct(self, *inputs):
        if self.judges:
            judged = self.loss.judge(*inputs)
            _, gradients = self.run(judged[0], *inputs[1:])
            return judged[1:], gradients
        return self.run(*inputs)


class Reference:
    """PyTorch's side, in float64."""

    def __init__(self, players: Players, playing: bool = True):
        trained, opponent = (
            {p.name: torch.tensor(p.asnumpy().astype(np.float64), requires_grad=True) for p in parameters}
            for parameters in (players.trained, players.opponent)
        )
        w = self.w = trained | opponent
        x = torch.from_numpy(VIDEO).double().flatten(0, 1)
        moments = F.conv2d(F.avg_pool2d(x, 2), w["encoder.moments.weight"], w["encoder.moments.bias"])
        mean, log_variance = moments.chunk(2, 1)
        z = mean + torch.exp(log_variance / 2) * torch.from_numpy(NOISE).flatten(0, 1)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        decoded = torch.cat([self.decode(z, CLIPS), self.decode(z[CHOSEN], len(CHOSEN))])
        self.frames = torch.cat([x, x[CHOSEN]])
        numbers = 3 * SIDE**2
        difference = (decoded - self.frames).abs() + PERCEPTUAL * structural(decoded, self.frames)[:, None, None, None]
        total = difference.sum() / len(decoded)  # as published: the sum over a frame
        adversarial = -sum(logits.mean() for logits in self.logits(decoded))
        last = w["decoder.last.weight"]
        of_error = torch.autograd.grad(total, last, retain_graph=True)[0].norm()
        of_adversarial = torch.autograd.grad(adversarial, last, retain_graph=True)[0].norm()
        weight = WEIGHT * torch.clamp(of_error / (of_adversarial + 1e-4), 0, 1e4).detach() * playing
        loss = (total + weight * adversarial) / numbers + KL * kl
        loss.backward()
        self.shown = [loss, total / numbers, adversarial * playing, weight]
        self.decoded, self.gradients = decoded.detach(), [w[p.name].grad for p in players.trained]
        for parameter in players.opponent:
            w[parameter.name].grad = None
        pairs = list(zip(self.logits(self.frames), self.logits(self.decoded)))
        self.hinge = sum((F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2 for real, fake in pairs)
        self.hinge.backward()
        self.opponents_gradients = [w[p.name].grad for p in players.opponent]

    def decode(self, z, clips: int):
        w = self.w
        x = F.leaky_relu(F.conv2d(z, w["decoder.first.weight"], w["decoder.first.bias"], padding=1), 0.3)
        x = F.conv2d(F.interpolate(x, scale_factor=2), w["decoder.second.weight"], w["decoder.second.bias"], padding=1)
        x = x.unflatten(0, (clips, -1)).transpose(1, 2)
        kernel = w["decoder.last.weight"][..., None]
        return F.conv3d(x, kernel, w["decoder.last.bias"], padding=(1, 0, 0)).transpose(1, 2).flatten(0, 1)

    def logits(self, frames):
        names = {name.split(".")[0] for name in self.w}
        if "clips" in names:
            yield self.judged("clips", frames[: CLIPS * FRAMES].unflatten(0, (CLIPS, FRAMES)).transpose(1, 2), 3)
        if "frames" in names:
            yield self.judged("frames", frames[:, :, None], 1)

    def judged(self, part: str, x, seen: int):
        """[b c t h w], by 3-D convolutions."""
        convs = sorted({name.split(".")[2] for name in self.w if name.startswith(f"{part}.convs.")})
        for i in convs:
            weight, bias = self.w[f"{part}.convs.{i}.weight"], self.w.get(f"{part}.convs.{i}.bias")
            kernel = weight.unflatten(1, (seen, -1)).transpose(1, 2)
            stride = (1, 2, 2) if i == "0" else 1
            x = F.conv3d(x, kernel, bias, stride, padding=(seen // 2, 1, 1))
            if i == convs[-1]:
                return x
            if i != "0":
                norm = f"{part}.norms.{int(i) - 1}"
                x = F.group_norm(x, min(32, x.shape[1]), self.w[f"{norm}.weight"], self.w[f"{norm}.bias"])
            x = F.leaky_relu(x, 0.2)


def structural(x, y):
    """1 - SSIM of images [n 3 h w]."""
    places = torch.arange(11, dtype=x.dtype) - 5.0
    window = torch.exp(-(places**2) / (2 * 1.5**2))
    window = (torch.outer(window, window) / window.sum() ** 2).expand(3, 1, 11, 11)
    a, b = F.conv2d(x, window, groups=3), F.conv2d(y, window, groups=3)
    aa, bb, ab = (F.conv2d(product, window, groups=3) for product in (x * x, y * y, x * y))
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    ssim = (2 * a * b + c1) * (2 * (ab - a * b) + c2) / ((a * a + b * b + c1) * (aa - a * a + bb - b * b + c2))
    return 1 - ssim.mean((1, 2, 3))


def inputs() -> tuple[Tensor, ...]:
    return Tensor(VIDEO), Tensor(NOISE), Tensor(CHOSEN)


def test_losses_weight_and_gradients(mode):
    """Of both players, with both kinds of discriminators, clips and frames that are alone."""
    players = Players()
    reference = Reference(players)
    (shown, frames, decoded), gradients = Gradients(players.loss, players.trained)(True, *inputs())
    for found, expected in zip(shown.asnumpy(), reference.shown):
        assert found == pytest.approx(float(expected.detach()), rel=TOLERANCE)
    assert 0.01 < shown.asnumpy()[3] < LARGEST_WEIGHT
    assert_close(frames, reference.frames)
    assert_close(decoded, reference.decoded)
    for found, expected in zip(gradients, reference.gradients):
        assert_close(found, expected, TOLERANCE)
    hinge, gradients = Gradients(DiscriminatorLoss(players.discriminators), players.opponent)(frames, decoded)
    assert float(hinge.asnumpy()) == pytest.approx(float(reference.hinge.detach()), rel=TOLERANCE)
    for found, expected in zip(gradients, reference.opponents_gradients):
        assert_close(found, expected, TOLERANCE)


@pytest.mark.parametrize("kind", ["temporal", "image"])
def test_a_discriminator_by_itself(eager, kind):
    players = Players(kind)
    reference = Reference(players)
    (shown, *_), gradients = Gradients(players.loss, players.trained)(True, *inputs())
    for found, expected in zip(shown.asnumpy(), reference.shown):
        assert found == pytest.approx(float(expected.detach()), rel=TOLERANCE)
    for found, expected in zip(gradients, reference.gradients):
        assert_close(found, expected, TOLERANCE)


def test_before_the_start_there_is_reconstruction_alone(eager):
    """The same as without discriminators."""
    players = Players()
    (shown, *_), gradients = Gradients(players.loss, players.trained)(False, *inputs())
    loss, error, adversarial, weight = shown.asnumpy()
    assert adversarial == weight == 0 and loss == pytest.approx(
        float(Reference(players, False).shown[0].detach()), rel=TOLERANCE
    )
    plain, expected = Gradients(players.plain, players.trained)(*inputs())
    assert loss == pytest.approx(float(plain.asnumpy()), rel=1e-6)
    for found, other in zip(gradients, expected):
        assert_close(found, other, 1e-5)


def test_the_adaptive_weight_is_limited(eager):
    """Where discriminators see no difference in anything, their gradient is zero."""
    players = Players()
    for part in (players.discriminators.clips, players.discriminators.frames):
        part.convs[-1].weight.set_data(ops.zeros_like(part.convs[-1].weight))
    _, shown, *_ = players.loss.judge(True, *inputs())
    assert shown.asnumpy()[3] == pytest.approx(1e4 * WEIGHT)


# --- perceptual losses ---


def vgg_reference(network: Lpips, x, y):
    """LPIPS with the weights of ours."""
    w = {p.name: torch.tensor(p.asnumpy()) for p in network.get_parameters()}
    mean, scale = (torch.tensor(values)[None, :, None, None] for values in (MEAN, DEVIATION))
    x, y, total = (x - mean) / scale, (y - mean) / scale, 0
    for level in range(5):
        if level:
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        for i in range(2 if level < 2 else 3):
            name = f"levels.{level}.convs.{i}"
            x, y = (F.relu(F.conv2d(a, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)) for a in (x, y))
        unit = [a / (a.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for a in (x, y)]
        total = total + (w[f"levels.{level}.weight"] * (unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
    return total


class Difference(nn.Cell):
    """The sum of differences and its gradient with respect to the first images."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        self.run = ms.value_and_grad(self.total, 0)

    def total(self, x, y):
        return ops.reduce_sum(self.network(x, y))

    def construct(self, x, y):
        return self.run(x, y)


@pytest.mark.parametrize("kind", ["ssim", "lpips"])
def test_perceptual_losses(mode, kind):
    """Values and gradients."""
    network = Dissimilarity()
    if kind == "lpips":
        network = Lpips()
        rng = np.random.default_rng(0)
        for p in network.get_parameters():
            scale = np.sqrt(2 / np.prod(p.shape[1:])) if p.name.endswith("weight") else 0.1
            value = np.abs(rng.standard_normal(p.shape)) if p.shape[0] == 1 else scale * rng.standard_normal(p.shape)
            p.set_data(Tensor(value.astype(np.float32)))
    x, y = (torch.from_numpy(VIDEO[i]).clone() for i in range(2))
    x.requires_grad_(True)
    expected = vgg_reference(network, x, y) if kind == "lpips" else structural(x, y)
    expected.sum().backward()
    value, gradient = Difference(network)(Tensor(VIDEO[0]), Tensor(VIDEO[1]))
    assert float(value.asnumpy()) == pytest.approx(float(expected.sum().detach()), rel=TOLERANCE)
    assert_close(gradient, x.grad, TOLERANCE)
    assert np.abs(network(Tensor(VIDEO[0]), Tensor(VIDEO[0])).asnumpy()).max() < 1e-6
