"""Stable Video Diffusion on MindSpore: from an image to a video, on Ascend, GPU and CPU."""

from svd.runtime import avoid_slow_convolution, quiet_compiler

__version__ = "0.1.0"
__all__ = ["load_pipeline"]

# Both have to come before the first `import mindspore`.
avoid_slow_convolution()
quiet_compiler()


def __getattr__(name: str):
    # MindSpore takes seconds to import: `--help` and error messages need not wait for it.
    if name == "load_pipeline":
        from svd.build import load_pipeline

        return load_pipeline
    raise AttributeError(f"module 'svd' has no attribute {name!r}")
