"""Functions that a user calls directly, each argument with values that it can't have: one line, from our own code."""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from conftest import SMALL_SPACES
from fuzzing import judge

from jaxnas import codes, datasets, evaluation, ranking, samplers, search, spaces, training
from jaxnas.costs import latency, limits, make_limit
from jaxnas.ops import Policy
from jaxnas.ops.convolution import Unfold
from jaxnas.search import posterior
from jaxnas.spaces import SPACES
from jaxnas.supernets import make_supernet
from jaxnas.training import landmarks, schedules

SPACE = SMALL_SPACES["tiny"]
MACRO = SPACES["nasbench_macro"]
ARCHS = codes.enumerate_archs(SPACE)[::9]
NAN, INF = math.nan, math.inf

# What an argument of each kind cannot be.
NO_NUMBER = (NAN, INF, -INF, "x", None, [1.0], 1j, True)
NO_SHARE = (*NO_NUMBER, -0.1, 1.0, 7)  # in [0, 1)
NO_AMOUNT = (*NO_NUMBER, -0.1)  # at least 0
NOT_POSITIVE = (*NO_AMOUNT, 0.0)
NO_WHOLE = (-1, 1.5, NAN, "3", None, True, 2**40, [1])
NO_COUNT = (*NO_WHOLE, 0)
UNCACHED = (-1, 0, 1.5, NAN, "3", None, 2**40)
NO_NAME = ("x", "", None, 3, [])
NO_CODES = (None, "x", [[0, 0]], [0, 0, 0], [[0, 0, 9]], [[0.0, 0.0, 0.0]], [[-1, 0, 0]], [])
NO_SCORES = (None, "x", [1.0], [[1.0, NAN], [2.0]], ["a", "b", "c", "d"], [NAN, 1.0, 2.0, 3.0], [])


class Case(NamedTuple):
    """A function, arguments that it takes, and for some of them what it does not."""

    call: Any
    given: dict[str, Any]
    refused: dict[str, tuple[Any, ...]]


@functools.cache
def supernet():
    return make_supernet(SPACE)


def case(call: Any, refused: dict[str, tuple[Any, ...]], **given: Any) -> Case:
    return Case(call, given, refused)


SEEDS = [[0.1, 0.2], [0.2, 0.3], [0.3, 0.1]]
TRUTH = {"scores": [1.0, 2.0, 4.0, 3.0], "truth": [0.1, 0.2, 0.3, 0.4]}
IMAGES = np.zeros((8, 4, 4, 1), np.uint8)
LABELS = np.arange(8)
DRAWN = {"num_landmarks": NO_COUNT[:-1], "num_pairs": NO_COUNT}
SEARCHED = {"space": SPACE}

CASES = {
    "resized": case(
        lambda **sizes: make_supernet(SPACES["digits_chain"].resized(**sizes)),
        {"width": NO_COUNT, "image_size": NO_COUNT, "in_channels": NO_COUNT, "num_classes": NO_COUNT, "depth": (3,)},
    ),
    "get_space": case(spaces.get_space, {"name": (*NO_NAME, "x:y", ":", "x.py:", "\n")}, name="darts"),
    "nasbench101_space": case(
        spaces.nasbench101_space, {"num_vertices": (*UNCACHED, 3, 99), "output_degree": UNCACHED}, num_vertices=5
    ),
    "darts_space": case(spaces.darts_space, {"num_nodes": (*UNCACHED, 999)}, num_nodes=2),
    "make_supernet": case(
        make_supernet,
        {
            "kernels": NO_NAME, "op_on": NO_NAME, "channels": NO_NAME, "batch_norm": NO_NAME, "path_dropout": NO_SHARE,
            "global_dropout": NO_SHARE, "affine": ("yes", None, 2),
        },
        space=SPACE,
    ),
    "codes.check": case(codes.check, {"archs": NO_CODES}, space=SPACE, archs=ARCHS),
    "codes.sample": case(
        lambda num_archs: codes.sample(jax.random.key(0), SPACE, num_archs), {"num_archs": NO_COUNT}, num_archs=2
    ),
    "codes.from_index": case(
        codes.from_index, {"indices": ([-1], [27], [0.5], ["x"], None, "x", [2**70], [[1]])}, space=SPACE, indices=[3]
    ),
    "codes.from_text": case(
        codes.from_text, {"texts": (["0"], ["00x"], ["009"], [""], [3], None, 3, "012")}, space=SPACE, texts=["012"]
    ),
    "codes.to_text": case(
        codes.to_text, {"arch": (None, [0], [0, 0, 9], [0.5, 0, 0], "x", [[0, 0, 0]])}, space=SPACE, arch=[0, 1, 2]
    ),
    "uniform": case(samplers.uniform, {"num_archs": NO_COUNT}, space=SPACE),
    "distinct": case(samplers.distinct, {"num_archs": NO_COUNT}, space=SPACE),
    "fair": case(samplers.fair, {"num_archs": (*NO_COUNT, 4)}, space=SPACE),
    "replayed": case(
        samplers.replayed, {"num_archs": NO_COUNT, "num_steps": NO_COUNT}, space=SPACE, num_archs=1, num_steps=2
    ),
    "replay": case(
        samplers.replay, {"num_archs": NO_COUNT, "first": NO_WHOLE}, archs=ARCHS, num_archs=1
    ),
    "restricted": case(
        samplers.restricted,
        {"num_archs": NO_COUNT, "allowed": (None, "x", np.zeros((3, 3), bool), np.ones((2, 3), bool), np.ones((3, 3)))},
        space=SPACE, allowed=np.ones((3, 3), bool),
    ),
    "constant": case(schedules.constant, {"value": NO_NUMBER, "warmup_steps": NO_WHOLE}, value=1.0),
    "cosine_increase": case(
        schedules.cosine_increase,
        {"value": NO_NUMBER, "num_steps": NO_COUNT, "warmup_steps": (*NO_WHOLE, 3)}, value=1.0, num_steps=3,
    ),
    "published_increase": case(
        schedules.published_increase,
        {"value": NO_NUMBER, "num_epochs": NO_COUNT, "steps_per_epoch": NO_COUNT, "warmup_epochs": (*NO_WHOLE, 3)},
        value=1.0, num_epochs=3, steps_per_epoch=2,
    ),
    "stepped": case(
        schedules.stepped,
        {"value": NO_NUMBER, "num_epochs": NO_COUNT, "steps_per_epoch": NO_COUNT, "factors": ((), ("x",), (NAN,) * 4)},
        value=1.0, num_epochs=4, steps_per_epoch=2,
    ),
    "sgd": case(
        training.sgd,
        {
            "learning_rate": NOT_POSITIVE, "num_steps": NO_COUNT, "momentum": NO_SHARE, "weight_decay": NO_AMOUNT,
            "clip_norm": NOT_POSITIVE, "final_learning_rate": NO_AMOUNT,
        },
        learning_rate=0.1, num_steps=3,
    ),
    "batches": case(
        lambda **given: training.batches(jax.random.key(0), **given),
        {
            "batch_size": (*NO_COUNT, 9), "split": NO_NAME, "labels": (LABELS[:4], LABELS / 2, None, "x"),
            "images": (IMAGES[0], None, "x"),
        },
        images=IMAGES, labels=LABELS, batch_size=4,
    ),
    "make_preprocess": case(
        training.make_preprocess,
        {"crop": NO_WHOLE, "mean": (None, "x", [NAN], [[0.5]]), "std": (None, "x", [NAN], [0.0], [-1.0])},
        mean=[0.5], std=[0.5],
    ),
    "make_cross_entropy_loss": case(
        lambda **given: training.make_cross_entropy_loss(supernet(), **given),
        {"label_smoothing": NO_SHARE, "dropout_steps": NO_COUNT},
    ),
    "add_losses": case(
        training.add_losses,
        {"terms": ({}, None, {"a": 1.0}, {"a": (NAN, len)}, {"a": ("x", len)}, {"a": (1.0, None)})},
        terms={"a": (1.0, training.make_cross_entropy_loss)},
    ),
    "make_train_step": case(
        lambda **given: training.make_train_step(
            supernet(), len, samplers.uniform(SPACE), training.sgd(0.1, num_steps=2), **given
        ),
        {"idle": NO_NAME, "stats_momentum": NO_SHARE},
    ),
    "ranking_loss": case(
        training.ranking_loss,
        {"margin": NO_AMOUNT, "beta": NOT_POSITIVE, "tolerance": NO_AMOUNT},
        losses=np.ones(3, np.float32), order=np.arange(3.0, dtype=np.float32),
    ),
    "make_ranking_loss_fn": case(
        lambda **given: landmarks.make_ranking_loss_fn(supernet(), **given),
        {
            "landmarks": NO_CODES, "order": ((1.0,), (NAN, 1.0, 2.0), None, "x", (1.0, 1.0, 1.0)), "margin": NO_AMOUNT,
            "beta": NOT_POSITIVE, "tolerance": NO_AMOUNT, "num_per_step": (*NO_COUNT, 1, 4), "tile": NO_COUNT,
        },
        landmarks=ARCHS, order=(1.0, 2.0, 3.0),
    ),
    "all_pairs": case(landmarks.all_pairs, DRAWN, num_landmarks=3),
    "adjacent_pairs": case(landmarks.adjacent_pairs, DRAWN, num_landmarks=3),
    "biased_pairs": case(landmarks.biased_pairs, DRAWN, num_landmarks=3),
    "random_landmarks": case(
        lambda **given: landmarks.random_landmarks(jax.random.key(0), **given),
        {"num_archs": NO_COUNT, "num_landmarks": (*NO_COUNT, 1, 10)}, num_archs=9, num_landmarks=3,
    ),
    "ranked_landmarks": case(
        landmarks.ranked_landmarks,
        {"num_landmarks": (*NO_COUNT, 5), "order": NO_SCORES}, order=[1.0, 2.0, 4.0, 3.0], num_landmarks=3,
    ),
    "distant_landmarks": case(
        lambda **given: landmarks.distant_landmarks(jax.random.key(0), **given),
        {"num_landmarks": NO_COUNT, "min_distance": NO_COUNT, "archs": (None, "x", [0, 1], [[0.5, 1.0]])},
        archs=ARCHS, num_landmarks=2, min_distance=1,
    ),
    "make_evaluator": case(
        lambda **given: evaluation.make_evaluator(supernet(), **given),
        {
            "strategy": NO_NAME, "bn_mode": NO_NAME, "archs_per_call": NO_COUNT, "images_per_call": NO_COUNT,
            "memory_budget": (-1, NAN, "3", [1], 0, INF), "groups": (*NO_COUNT, "x"), "workers": NO_COUNT,
        },
    ),
    "plan": case(
        lambda num_archs, num_images: evaluation.make_evaluator(supernet()).plan(num_archs, num_images),
        {"num_archs": NO_COUNT[:-2], "num_images": NO_COUNT[:-2]}, num_archs=2, num_images=2,
    ),
    "kendall_tau": case(ranking.kendall_tau, {"scores": NO_SCORES, "truth": NO_SCORES}, **TRUTH),
    "spearman": case(ranking.spearman, {"scores": NO_SCORES, "truth": NO_SCORES}, **TRUTH),
    "sparse_kendall_tau": case(
        ranking.sparse_kendall_tau,
        {"scores": NO_SCORES, "truth": NO_SCORES, "threshold": NOT_POSITIVE, "variant": NO_NAME}, **TRUTH,
    ),
    "top_k_mean": case(
        ranking.top_k_mean, {"scores": NO_SCORES, "truth": NO_SCORES, "k": (*NO_COUNT, 5)}, k=1, **TRUTH
    ),
    "top_k_regret": case(ranking.top_k_regret, {"k": (*NO_COUNT, 5)}, k=1, **TRUTH),
    "precision_at_k": case(ranking.precision_at_k, {"k": (*NO_COUNT, 5)}, k=1, **TRUTH),
    "best_rank_at_k": case(ranking.best_rank_at_k, {"k": (*NO_COUNT, 5)}, k=1, **TRUTH),
    "worst_rank_at_k": case(ranking.worst_rank_at_k, {"k": (*NO_COUNT, 5)}, k=1, **TRUTH),
    "prob_surpass_random": case(
        ranking.prob_surpass_random,
        {"rank": (*NO_NUMBER, 0, 12), "num_archs": NO_COUNT, "num_draws": NO_COUNT}, rank=3, num_archs=10, num_draws=2,
    ),
    "seed_kendall_tau": case(ranking.seed_kendall_tau, {"truth": NO_SCORES}, truth=SEEDS),
    "reliability": case(ranking.reliability, {"truth": NO_SCORES}, truth=SEEDS),
    "estimate_mean": case(
        ranking.estimate_mean, {"values": (None, "x", [[1.0]]), "level": NO_SHARE}, values=[1.0, 2.0]
    ),
    "estimate": case(
        lambda **given: ranking.estimate(ranking.kendall_tau, given["scores"], given["truth"], level=given["level"]),
        {"level": NO_SHARE, "scores": NO_SCORES}, level=0.95, **TRUTH,
    ),
    "report": case(
        ranking.report, {"scores": NO_SCORES, "truth": NO_SCORES, "top_k": (*NO_COUNT, 13)},
        scores=np.arange(12.0), truth=np.arange(12.0) / 12, top_k=2,
    ),
    "fingerprints": case(
        ranking.fingerprints,
        {
            "values": (None, "x", [1.0], [[1.0, 2.0]], [[1.0], [1.0, 2.0]], [[-1.0], [2.0]], []), "transform": NO_NAME,
            "num_components": (-1, 1.5, NAN, "3", True, 2**40, 0),
        },
        values=[[1.0, 2.0], [2.0, 1.0], [4.0, 3.0]],
    ),
    "one_factor": case(
        ranking.one_factor,
        {"values": (None, "x", [1.0], [[1.0, 2.0]], [[1.0], [1.0, 2.0]], [[-1.0], [2.0]], []), "transform": NO_NAME},
        values=[[1.0, 2.0], [2.0, 1.0], [4.0, 3.0]],
    ),
    "predict": case(
        ranking.predict,
        {
            "archs": (None, "x", [0, 1], []), "known": ([-1, 0], [0, 99], [0.5, 1.0], None, "x", [0, 0]),
            "accuracies": ([1.0], [NAN, 1.0, 0.5], None, "x"), "scores": ([1.0], "x", [NAN] * 27),
            "macs": ([1.0], "x", [NAN] * 27),
        },
        archs=codes.enumerate_archs(SPACE), known=[0, 5, 11], accuracies=[0.1, 0.3, 0.2],
    ),
    "random_search": case(search.random_search, {"num_archs": NO_COUNT}, **SEARCHED),
    "evolution": case(
        search.evolution, {"population_size": NO_COUNT, "tournament_size": NO_COUNT, "num_archs": NO_COUNT}, **SEARCHED
    ),
    "spos": case(
        search.spos,
        {
            "population_size": NO_COUNT, "num_parents": NO_COUNT, "num_mutations": NO_WHOLE, "num_crossovers": NO_WHOLE,
            "mutation_prob": (*NO_NUMBER, -0.1, 1.1),
        },
        **SEARCHED,
    ),
    "pcnas": case(
        search.pcnas,
        {
            "pool_size": NO_COUNT, "num_completions": NO_COUNT,
            "order": ((0,), (0, 1, 1), (0, 1, 3), "x", (0.5, 1, 2)),
        },
        **SEARCHED,
    ),
    "shared_posterior": case(
        posterior.shared_posterior,
        {"means": ("x", None, [NAN], [[NAN], [1.0]]), "variances": ("x", None, [[0.0], [1.0]], [[-1.0], [1.0]], [1.0])},
        means=[[0.0], [1.0]], variances=[[1.0], [2.0]],
    ),
    "limits.parse": case(
        limits.parse,
        {"text": ("", "macs", "macs:", "macs:x", "macs:nan", "x:1", ":", None, 3, "macs:1e999", "latency_ms:1")},
        text="macs:1e6", space=SPACE,
    ),
    "make_limit": case(
        make_limit, {"value": NO_NUMBER, "cost": (None, "x", 3)}, space=SPACE, name="macs", value=1.0, cost=np.sum
    ),
    "cost_table": case(
        limits.cost_table, {"per_op": (None, "x", [1.0], np.full((3, 3), NAN)), "fixed": NO_NUMBER},
        space=SPACE, per_op=np.ones((3, 3)),
    ),
    "calibrate": case(
        latency.calibrate, {"predicted": NO_SCORES, "measured": NO_SCORES},
        predicted=[1.0, 2.0, 3.0, 5.0], measured=[2.0, 4.0, 6.0, 9.0],
    ),
    "datasets.load": case(
        datasets.load,
        {
            "name": (*NO_NAME, "digits/x"), "num_valid": (*NO_COUNT, 900), "num_train": (*NO_COUNT, 601),
            "image_size": (*NO_COUNT, 2**20), "split_seed": (-1, 1.5, NAN, "3", None, True, 2**200),
        },
        name="digits", num_valid=300,
    ),
}  # fmt: skip
OPTIONAL = {
    ("fair", "num_archs"), ("nasbench101_space", "output_degree"), ("sgd", "clip_norm"),
    ("make_cross_entropy_loss", "dropout_steps"), ("make_train_step", "stats_momentum"), ("ranking_loss", "beta"),
    *((draw, "num_pairs") for draw in ("all_pairs", "adjacent_pairs", "biased_pairs")),
    *(("make_ranking_loss_fn", name) for name in ("beta", "num_per_step", "tile")),
    *(("resized", name) for name in ("width", "image_size", "in_channels", "num_classes")),
    *(("make_evaluator", name) for name in ("archs_per_call", "memory_budget", "workers", "groups")),
    ("datasets.load", "num_train"), ("datasets.load", "image_size"), ("pcnas", "order"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_an_argument_cannot_be(name):
    call, given, refused = CASES[name]
    call(**given)
    for argument, values in refused.items():
        for value in values:
            if value is None and (name, argument) in OPTIONAL:
                continue
            changed = functools.partial(call, **given | {argument: value})
            judge(f"arguments: {name}({argument}={str(value)[:40]})", changed, lambda _: False)


@pytest.mark.parametrize("size, stride", [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_stems_of_images_smaller_than_their_window(size, stride):
    image = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    found, variables = Unfold(4, 3, stride, Policy()).init_with_output(jax.random.key(0), image)
    kernel = variables["params"]["kernel"].reshape(3, 3, 3, 4)
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(image, kernel, (stride, stride), [(1, 1), (1, 1)], None, None, dimensions)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    make_supernet(SPACES["nasbench_macro"].resized(width=2, image_size=size))
