"""Stable Video Diffusion on MindSpore: image to video, fine-tuning and conversion."""

from svd.runtime import avoid_slow_convolution, quiet_compiler

__version__ = "0.1.0"
__all__ = ["load_pipeline"]

# Both must precede the first `import mindspore`.
avoid_slow_convolution()
quiet_compiler()


def __getattr__(name: str):
    # MindSpore takes seconds to import, which `--help` and error messages do not wait for.
    if name == "load_pipeline":
        from svd.build import load_pipeline

        return load_pipeline
    raise AttributeError(f"module 'svd' has no attribute {name!r}")
