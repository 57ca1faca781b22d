"""Loading weights of diffusers' UNets, and of what is built on them, into ours."""

import re
from collections.abc import Mapping

import numpy as np
from mindspore import Tensor, nn

SUBSTITUTIONS = [
    (r"^(down_blocks\.\d+\.)downsample\.", r"\1downsamplers.0."),
    (r"^(up_blocks\.\d+\.)upsample\.", r"\1upsamplers.0."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^entry\.", "transformer_in."),
    (r"(resnets\.\d+\.)spatial\.emb_proj\.", r"\1time_emb_proj."),
    (r"(resnets\.\d+\.)spatial\.shortcut\.", r"\1conv_shortcut."),
    (r"(resnets\.\d+\.)spatial\.", r"\1"),
    (r"(attentions\.\d+\.)spatial\.", r"\1transformer_blocks.0."),
    (r"\.block\.", ".transformer_blocks.0."),
    (r"\.to_out\.", ".to_out.0."),
    (r"\.ff\.proj_in\.", ".ff.net.0.proj."),
    (r"\.ff\.proj_out\.", ".ff.net.2."),
]
"""From our names to diffusers', in this order."""


def load_diffusers(network: nn.Cell, state: Mapping[str, np.ndarray], more: list[tuple[str, str]], ignored: str = ""):
    """Load a state dict into our network, and return the network.

    Args:
        more: substitutions of temporal layers, before the others.
        ignored: a regular expression for names that have no place in ours; all others have to be used.
    """
    left = {name for name in state if not (ignored and re.search(ignored, name))}
    for parameter in network.get_parameters():
        name = parameter.name
        for pattern, replacement in more + SUBSTITUTIONS:
            name = re.sub(pattern, replacement, name)
        value = np.asarray(state[name])
        assert value.squeeze().shape == tuple(n for n in parameter.shape if n != 1) or value.size == 1, name
        parameter.set_data(Tensor(value.reshape(parameter.shape).astype(np.float32)))
        left.remove(name)
    assert not left
    return network.set_train(False)
