"""Run by `test_mesh` in a process with eight devices: policies that learn with shared weights, and text, on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import SMALL_SPACES
from mesh_training import TX, mesh, same

from jaxnas.codes import enumerate_archs
from jaxnas.policies import POLICIES, make_search_training
from jaxnas.samplers import Sampler
from jaxnas.spaces import rnn32
from jaxnas.supernets import make_supernet
from jaxnas.training import Sharing, batches, fit, init_train_state, make_cross_entropy_loss, make_train_step

SUPERNET = make_supernet(SMALL_SPACES["tiny"])
POLICY_SETTINGS = {"darts": {"unrolled": True}, "bayesnas": {}, "enas": {"num_asked": 4}}
rng = np.random.default_rng(0)
IMAGES, LABELS = rng.normal(size=(32, 4, 4, 1)).astype(np.float32), rng.integers(0, 10, 32)
WORDS, NEXT = (rng.integers(0, 7, (8, 6)) for _ in range(2))


def search(name: str, sharing: Sharing):
    """The state of weights and policy after three steps of both."""
    policy = POLICIES[name](SUPERNET, **POLICY_SETTINGS[name])
    training = make_search_training(
        SUPERNET,
        policy,
        make_cross_entropy_loss(SUPERNET),
        TX,
        timetable=policy.timetable(3, 1),
        valid_at=batches(jax.random.key(2), IMAGES[16:], LABELS[16:], 8, split="valid", mesh=sharing.mesh),
        sharing=sharing,
    )
    batch_at = batches(jax.random.key(1), IMAGES[:16], LABELS[:16], 8, mesh=sharing.mesh)
    state = fit(training.step, training.init(jax.random.key(0)), batch_at, 3)
    leaves = jax.tree.leaves((state.params, state.sampler_state.policy))
    return jax.device_get([leaf for leaf in leaves if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)])


def read(sharing: Sharing):
    """Weights, what is remembered of each row, and the loss after four steps on text: a second epoch begins."""
    space = rnn32.resized(width=5, num_classes=7, num_words=6)
    supernet, archs = make_supernet(space), enumerate_archs(space)[[3, 21]]
    sampler = Sampler(lambda key: (), lambda key, state: jnp.asarray(archs), lambda state, *_: state, groups=2)
    step = make_train_step(supernet, make_cross_entropy_loss(supernet), sampler, TX, sharing=sharing)
    state, found = init_train_state(supernet, sampler, TX, jax.random.key(0), num_rows=4), []
    batch_at = batches(jax.random.key(1), WORDS, NEXT, 4, mesh=sharing.mesh)
    fit(step, state, batch_at, 4, callbacks=[lambda steps, metrics, state: found.append((metrics, state))])
    metrics, state = found[-1]
    return jax.device_get((state.params, state.memory, metrics["loss"]))


def main() -> None:
    assert len(jax.devices()) == 8
    for name in POLICY_SETTINGS:
        same(search(name, Sharing(mesh(1, 4))), search(name, Sharing()))
        print(name)
    alone = read(Sharing())
    assert np.abs(alone[1]).max() > 0
    for rows, columns in ((2, 2), (1, 4)):
        same(read(Sharing(mesh(rows, columns))), alone)
        print(f"text:{rows}x{columns}")
    for name, sharing, said in (
        ("enas", Sharing(mesh(2, 1)), "archs=2 does not divide the 1 architectures of a step"),
        ("darts", Sharing(parts=2), "darts_second_order judges mixtures by gradients of whole batches, parts is 2"),
    ):
        try:
            search(name, sharing)
        except ValueError as error:
            assert said in str(error) and "\n" not in str(error), error
        else:
            raise AssertionError(said)
    print("refused")


if __name__ == "__main__":
    main()
