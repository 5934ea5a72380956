"""Run by `test_mesh` in a process with eight devices: training over meshes against one device and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conftest import SMALL_SPACES, random_params

from jaxnas import codes
from jaxnas.evaluation import cross_entropy
from jaxnas.samplers import Sampler
from jaxnas.supernets import make_supernet
from jaxnas.training import (
    Recipe,
    Sharing,
    add_losses,
    batches,
    fit,
    init_train_state,
    make_cross_entropy_loss,
    make_preprocess,
    make_standalone,
    make_train_step,
)
from jaxnas.training.landmarks import make_ranking_loss_fn

SUPERNET = make_supernet(SMALL_SPACES["tiny"])
PARAMS = random_params(SUPERNET)
ARCHS = codes.enumerate_archs(SUPERNET.space)[[3, 11, 19, 26]]
SAMPLER = Sampler(lambda key: (), lambda key, state: jnp.asarray(ARCHS), lambda state, *_: state, groups=2)
TX = optax.sgd(0.1)
rng = np.random.default_rng(0)
IMAGES, LABELS = rng.integers(0, 256, (32, 4, 4, 1)).astype(np.uint8), rng.integers(0, 10, 32).astype(np.int32)
PREPROCESS = make_preprocess(np.array([0.5]), np.array([0.3]), crop=1, flip=True)


def mesh(rows: int, columns: int) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[: rows * columns]).reshape(rows, columns), ("archs", "data"))


def train(sharing: Sharing, num_steps: int = 3, *, preprocess=PREPROCESS, landmarks: bool = False):
    """The state after so many steps, and the metrics of the last."""
    loss_fn = make_cross_entropy_loss(SUPERNET, preprocess=preprocess)
    if landmarks:
        few = codes.enumerate_archs(SUPERNET.space)[[1, 8, 21]]
        ranking = make_ranking_loss_fn(SUPERNET, few, [0.3, 0.2, 0.1], margin=0.5, split="train", preprocess=preprocess)
        loss_fn = add_losses({"cross_entropy": (1.0, loss_fn), "ranking": (1.0, ranking)})
    step = make_train_step(SUPERNET, loss_fn, SAMPLER, TX, stats_momentum=0.5, sharing=sharing)
    state = init_train_state(SUPERNET, SAMPLER, TX, jax.random.key(0))._replace(params=PARAMS)
    batch_at, found = batches(jax.random.key(1), IMAGES, LABELS, 16), []

    def keep(steps, metrics, state):
        found.append((jax.device_get(state._replace(key=None)), metrics))

    fit(step, state, batch_at, num_steps, callbacks=[keep])
    return found[-1]


def same(got, expected, tolerance=2e-4) -> None:
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=tolerance, atol=tolerance), got, expected)


def by_hand(columns: int):
    """Gradient descent on the mean over parts of the batch, each normalised by itself: what "local" is."""
    order = np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.key(1), 0), 32))[:16]
    images, labels = (IMAGES[order].astype(np.float32) / 255 - 0.5) / 0.3, LABELS[order]

    def loss(params):
        total = 0.0
        for code in ARCHS:
            for part in range(columns):
                here = slice(part * 16 // columns, (part + 1) * 16 // columns)
                logits, _ = SUPERNET.apply(params, tuple(int(op) for op in code), images[here])
                total += cross_entropy(logits, labels[here]).mean() / columns
        return total

    return jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, jax.grad(loss)(PARAMS))


def alone_on(devices):
    """Test losses of three networks trained from two keys, in turns on these devices."""
    recipe = Recipe(num_epochs=1, batch_size=16, learning_rate=0.1)
    train = make_standalone(SUPERNET, recipe, mean=np.array([0.5]), std=np.array([0.3]), devices=devices)
    return train(ARCHS[:3], jax.random.split(jax.random.key(0)), IMAGES, LABELS, IMAGES[:8], LABELS[:8]).loss


def main() -> None:
    assert len(jax.devices()) == 8
    np.testing.assert_array_equal(alone_on(jax.devices()[:2]), alone_on(None))
    print("alone")
    alone = train(Sharing(), landmarks=True)
    for rows, columns in ((2, 2), (4, 1)):
        same(train(Sharing(mesh(rows, columns)), landmarks=True), alone)
        print(f"{rows}x{columns}")
    plain, steps = make_preprocess(np.array([0.5]), np.array([0.3])), 1
    expected = by_hand(4)
    for sharing in (Sharing(mesh(2, 2), "local", parts=2), Sharing(mesh(1, 4), "local", rematerialise=True)):
        same(train(sharing, steps, preprocess=plain)[0].params, expected)
    print("local")
    for sharing, said in (
        (Sharing(mesh(3, 1)), "archs=3 does not divide the 4 architectures"),
        (Sharing(mesh(1, 3)), "data=3 does not divide the 16 train images"),
        (Sharing(parts=3), "data=1 and 3 parts does not divide the 16 train images"),
    ):
        try:
            train(sharing)
        except ValueError as error:
            assert said in str(error) and "\n" not in str(error), error
        else:
            raise AssertionError(said)
    print("refused")


if __name__ == "__main__":
    main()
