"""Experiments: one file each, run as `jaxnas NAME [PRESET] [--field value ...] --workdir DIR`, in a clone also as
`python -m experiments.NAME ...`."""

import sys

if sys.orig_argv[-2:] != ["-m", "experiments"]:  # whose list needs nothing
    import jaxnas  # noqa: F401  # an interrupt ends in one line from here on
