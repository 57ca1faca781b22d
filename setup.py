"""What pyproject.toml cannot say: the packages of a wheel, some of which a clone has elsewhere."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

DATA = {
    "configs": ["*.yaml"],
    "configs/digits": ["*.yaml"],
    "assets": ["*.png", "*.md"],
    "assets/digits": ["*"],
    "tests/golden": ["*"],
}
"""Folders of the root, which become folders of the package svd: svd/resources.py finds them in both places."""
PROGRAMS = "svd_programs"
"""The package of image_to_video.py and train.py: the names are too common to be modules of their own."""
MOVED = {PROGRAMS: ".", **{"svd." + folder.replace("/", "."): folder for folder in DATA}}


class BuildPrograms(build_py):
    """This file is beside the programs, and none of them."""

    def find_package_modules(self, package: str, folder: str) -> list[tuple[str, str, str]]:
        return [found for found in super().find_package_modules(package, folder) if found[1] != "setup"]


setup(
    cmdclass={"build_py": BuildPrograms},
    packages=[*find_packages(include=["svd", "svd.*", "svd_tools", "svd_tools.*"]), *MOVED],
    package_dir=MOVED,
    package_data={"svd.operators": ["kernels/*"], **{f"svd.{k.replace('/', '.')}": v for k, v in DATA.items()}},
    include_package_data=False,
)
