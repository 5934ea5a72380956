"""The packages: jaxnas, and in a wheel the experiments as `jaxnas.experiments`. All else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["jaxnas*"])
    + [f"jaxnas.{name}" for name in find_packages(include=["experiments*"])],
    package_dir={"jaxnas.experiments": "experiments"},
)
