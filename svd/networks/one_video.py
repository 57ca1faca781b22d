"""The UNet over the noise levels of one video: what is the same at all of them is computed once."""

from __future__ import annotations

from collections.abc import Callable

from mindspore import Tensor, nn

from svd.networks.video_unet import VideoUNet


class _Constants(nn.Cell):
    def __init__(self, network: VideoUNet):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, context: Tensor, vector: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        return self.network.constants(context, vector, num_frames)


class _Evaluate(nn.Cell):
    def __init__(self, network: VideoUNet):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor, c_noise: Tensor, *constants: Tensor) -> Tensor:
        return self.network.evaluate(x, c_noise, constants)


class PerVideo:
    """Calling it gives the network for one video, while the weights stand still; graphs are compiled once for all."""

    def __init__(self, network: VideoUNet):
        self._constants, self._evaluate = _Constants(network), _Evaluate(network)
        self.graphs = {"network.constants": self._constants, "network.evaluate": self._evaluate}

    def __call__(self) -> Callable:
        """Returns (x, c_noise, context, vector) -> the network's output. Of a context that it has seen, the same tensor
        object, it still knows what follows from it.
        """
        known = {}  # with what it is of, so that no other tensor gets its id

        def network(x: Tensor, c_noise: Tensor, context: Tensor, vector: Tensor) -> Tensor:
            key = (id(context), id(vector), x.shape[1])
            if key not in known:
                known[key] = (self._constants(context, vector, x.shape[1]), context, vector)
            return self._evaluate(x, c_noise, *known[key][0])

        return network
