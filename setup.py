"""What pyproject.toml cannot say: the packages of a wheel, some of which a clone has elsewhere."""

from setuptools import find_packages, setup

DATA = {
    "configs": ["*.yaml"],
    "configs/digits": ["*.yaml"],
    "configs/moving_mnist": ["*.yaml"],
    "configs/stable_diffusion": ["*.yaml"],
    "configs/upsampler": ["*.yaml"],
    "configs/video_diffusion": ["*.yaml"],
    "configs/video_ldm": ["*.yaml"],
    "assets": ["*.png", "*.md"],
    "assets/digits": ["*"],
    "tests/golden": ["*"],
}
"""Folders of the root, which become folders of the package svd: svd/resources.py finds them in both places."""
MOVED = {"svd." + folder.replace("/", "."): folder for folder in DATA}

setup(
    packages=[*find_packages(include=["svd", "svd.*", "svd_tools", "svd_tools.*"]), *MOVED],
    package_dir=MOVED,
    package_data={"svd.operators": ["kernels/*"], **{f"svd.{k.replace('/', '.')}": v for k, v in DATA.items()}},
    include_package_data=False,
)
