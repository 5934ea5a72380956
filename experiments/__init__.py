"""Experiments: one file each, run as `python -m experiments.NAME [PRESET] [--field value ...] --workdir DIR`."""
