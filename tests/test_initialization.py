"""The weights that a training from nothing begins with."""

from hashlib import blake2b

import numpy as np
from mindspore import Tensor, ops
from safetensors.numpy import load_file
from small_model import SMALL

from svd.build import build_networks
from svd.checkpoints.model_file import Checkpoint
from svd.config import dump_config
from svd.initialization import initial_value
from svd.training.config import LossConfig
from svd.training.tasks.autoencoder import ReconstructionObjective
from svd_tools.initialize import main


def test_values_follow_from_name_shape_and_seed():
    a = initial_value("network.conv_in.weight", (64, 8, 3, 3), 0)
    np.testing.assert_array_equal(a, initial_value("network.conv_in.weight", (64, 8, 3, 3), 0))
    assert not np.array_equal(a, initial_value("network.conv_in.weight", (64, 8, 3, 3), 1))
    assert not np.array_equal(a, initial_value("autoencoder.encoder.conv_in.weight", (64, 8, 3, 3), 0))
    assert a.dtype == np.float32 and abs(a.var() * 3 * 72 - 1) < 0.05 and abs(a).max() <= 72**-0.5
    assert (initial_value("network.norm_out.weight", (64,), 0) == 1).all()
    assert (initial_value("network.conv_in.bias", (64,), 0) == 0).all()


VALUES = {
    "network.conv_in.weight": (64, 8, 3, 3),
    "network.down_blocks.0.resnets.0.temporal.conv1.bias": (64,),
    "network.mid_block.attentions.0.blend.mix_factor": (1,),
    "conditioner.image_encoder.position_embedding": (5, 32),
    "conditioner.image_encoder.layers.0.norm1.weight": (32,),
    "autoencoder.decoder.time_conv_out.weight": (3, 3, 3, 1),
}


def test_values_are_those_of_earlier_versions():
    """Bit for bit; which ones are zero, tests/layers/test_marks.py knows."""
    digest = blake2b(digest_size=8)
    for name, shape in VALUES.items():
        digest.update(initial_value(name, shape, 3).tobytes())
    assert digest.hexdigest() == "d5fbb0dda15c02ba"
    assert not initial_value("network.conv_in.weight", (64, 8, 3, 3), 3, zero=True).any()


def test_an_initial_model_is_complete_and_its_video_model_is_its_image_model(eager, tmp_path, capsys):
    (tmp_path / "model.yaml").write_text(dump_config(SMALL))
    out = tmp_path / "made" / "initial.safetensors"
    command = ["--config", str(tmp_path / "model.yaml"), "--out", str(out), "--seed", "3"]
    assert main(command) == 0 and Checkpoint(out).config == SMALL
    assert main(command) == 2 and "exists" in capsys.readouterr().err, "nothing is replaced unless asked for"
    networks = build_networks(SMALL)
    del networks["autoencoder.encoder"]
    Checkpoint(out).load(networks)
    silent = [name for name, value in load_file(out).items() if name.endswith("weight") and not value.any()]
    assert len(silent) > 10 and "network.conv_out.weight" in silent

    # At zero the network gives nothing; with a last layer that is not, frames are still independent of each other.
    network, config = networks["network"], SMALL.unet
    rng = np.random.default_rng(0)
    for parameter in network.get_parameters():
        if parameter.name == "conv_out.weight" or "spatial.conv2.weight" in parameter.name:
            parameter.set_data(Tensor(rng.standard_normal(parameter.shape).astype(np.float32) * 0.1))
    x = Tensor(rng.standard_normal((1, 3, config.in_channels, 8, 8)).astype(np.float32))
    context = Tensor(rng.standard_normal((1, 1, config.context_dim)).astype(np.float32))
    vector = Tensor(rng.standard_normal((1, config.vector_dim)).astype(np.float32))
    c_noise = Tensor(np.array([0.3], np.float32))
    video = network(x, c_noise, context, vector).asnumpy()
    images = network(x, c_noise, context, vector, True).asnumpy()
    assert abs(video).max() > 0.1
    np.testing.assert_allclose(video, images, atol=1e-5 * abs(video).max())

    decoder, c = networks["autoencoder.decoder"], SMALL.autoencoder
    z = Tensor(rng.standard_normal((1, 3, c.latent_channels, 4, 4)).astype(np.float32))
    together = decoder(z).asnumpy()
    for frame in range(3):
        alone = decoder(z[:, frame : frame + 1]).asnumpy()[:, 0]
        np.testing.assert_allclose(together[:, frame], alone, atol=1e-5 * abs(alone).max())


def test_a_grey_decoder_stays_grey(eager, tmp_path, capsys):
    """Its colours are equal before and after a training on grey videos, whatever else is trained."""
    (tmp_path / "model.yaml").write_text(dump_config(SMALL))
    out = tmp_path / "initial.safetensors"
    assert main(["--config", str(tmp_path / "model.yaml"), "--out", str(out), "--grey"]) == 0
    networks = build_networks(SMALL)
    decoder, encoder = networks["autoencoder.decoder"], networks["conditioner.autoencoder.encoder"]
    Checkpoint(out).load({"autoencoder.decoder": decoder, "conditioner.autoencoder.encoder": encoder})
    parts = {"encoder": encoder, "decoder": decoder}
    trained = {f"{part}.{p.name}": p for part, cell in parts.items() for p in cell.get_parameters()}
    objective = ReconstructionObjective(
        encoder, decoder, SMALL.autoencoder, LossConfig(kl_weight=1e-4), trained, seed=0
    )
    rng = np.random.default_rng(0)
    video = Tensor(np.repeat(rng.uniform(-1, 1, (1, 2, 1, 16, 16)), 3, 2).astype(np.float32))
    noise = Tensor(rng.standard_normal((1, 2, SMALL.autoencoder.latent_channels, 8, 8)).astype(np.float32))
    grads = ops.value_and_grad(objective.loss, None, list(trained.values()))
    for _ in range(3):
        _, found = grads(video, noise)
        for parameter, gradient in zip(trained.values(), found):
            parameter.set_data(parameter - 0.1 * ops.sign(gradient) * (ops.abs(gradient) > 1e-7))
    images = decoder(noise).asnumpy()
    assert images.std() > 0.01 and np.ptp(images, axis=2).max() < 1e-5
    assert main(["--config", str(tmp_path / "model.yaml"), "--out", str(out), "--grey", "--image_model", str(out)]) == 2
    assert "grey is about the decoder, which is the image model's" in capsys.readouterr().err
