"""Experiments: one file each, run as `python -m experiments.NAME [PRESET] [--field value ...] --workdir DIR`."""

import sys

if sys.orig_argv[-2:] != ["-m", "experiments"]:  # whose list needs nothing
    import jaxnas  # noqa: F401  # an interrupt ends in one line from here on
