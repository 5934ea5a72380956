"""Meshes of devices, of one process or of several that `jax.distributed` has joined: which part of them does what."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

AXES = ("archs", "data")
ToDevices = Callable[[Any], chex.Array]  # a host array -> the same on devices


class DeviceRow(NamedTuple):
    """Devices that score architectures together, each on batches of its own."""

    place_whole: ToDevices  # on each of them
    place_split: ToDevices  # split among them by its first axis


def make_mesh(text: str) -> jax.sharding.Mesh:
    """The mesh that a text such as "archs=2,data=4" describes: rows of devices that take architectures of their own,
    and columns that take images of their own; of all processes, in order.

    Raises:
      ValueError: another text, or not as many devices.
    """
    found = re.fullmatch(r"archs=([1-9]\d{0,5}),data=([1-9]\d{0,5})", text)
    if found is None:
        raise ValueError(f"mesh is {text!r}, expected archs=ROWS,data=COLUMNS, such as archs=2,data=4.")
    rows, columns = map(int, found.groups())
    devices = jax.devices()
    if rows * columns > len(devices):
        raise ValueError(
            f"a mesh of {text} takes {rows * columns} devices, but there are {len(devices)} of kind"
            f" {devices[0].device_kind!r}; choose a smaller one."
        )
    if jax.process_count() > 1 and rows * columns != len(devices):
        raise ValueError(f"a mesh of {text} leaves devices out, but {len(devices)} are joined; choose one of all.")
    return jax.sharding.Mesh(np.array(devices[: rows * columns]).reshape(rows, columns), AXES)


def check_axes(mesh: jax.sharding.Mesh) -> None:
    """A ValueError for a mesh of other axes than ("archs", "data")."""
    if mesh.axis_names != AXES:
        raise ValueError(f"the mesh has axes {mesh.axis_names}, expected {AXES}.")


def replicated(mesh: jax.sharding.Mesh | None, tree: Any) -> Any:
    """The tree of arrays on every device of the mesh; without one as it is. In several processes each gives the same
    arrays."""
    if mesh is None:
        return tree
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def place(leaf: Any) -> Any:
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            bits = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
        return jax.device_put(np.asarray(leaf), everywhere)

    return jax.tree.map(place, tree)


def on_one(tree: Any) -> Any:
    """The tree with arrays that every device of a mesh holds whole as one device of this process holds them."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and len(leaf.devices()) > 1 and leaf.is_fully_replicated:
            return jnp.asarray(np.asarray(leaf.addressable_data(0)))
        return leaf

    return jax.tree.map(one, tree)


def rows_of(mesh: jax.sharding.Mesh | None) -> list[DeviceRow | None]:
    """The rows of devices of a mesh, None for those of other processes; without a mesh the default device alone. Where
    rows reach over processes, each process's devices are one row instead."""
    if mesh is None:
        return [DeviceRow(jnp.asarray, jnp.asarray)]
    check_axes(mesh)
    rows: list[DeviceRow | None] = []
    for devices in rows_of_devices(mesh):
        if devices[0].process_index != jax.process_index():
            rows.append(None)
            continue
        row = jax.sharding.Mesh(devices, ("data",))
        whole, split = (jax.sharding.NamedSharding(row, jax.sharding.PartitionSpec(*axes)) for axes in ((), ("data",)))
        rows.append(DeviceRow(_putter(whole), _putter(split)))
    return rows


def rows_of_devices(mesh: jax.sharding.Mesh) -> np.ndarray:
    """The mesh's devices, [num_rows, num_devices], each row of one process."""
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
    if (processes == processes[:, :1]).all():
        return mesh.devices
    by_process = [mesh.devices[processes == process] for process in np.unique(processes)]
    if len({len(devices) for devices in by_process}) > 1:
        raise ValueError("the processes have different numbers of devices, of which no rows can be made.")
    return np.stack(by_process)


def _putter(sharding: jax.sharding.Sharding) -> ToDevices:
    return lambda array: jax.device_put(array, sharding)


def sum_over_processes(arrays: list[np.ndarray], mesh: jax.sharding.Mesh | None) -> list[np.ndarray]:
    """The sums of what each process found; without a mesh, or alone, the arrays themselves."""
    if mesh is None or jax.process_count() == 1:
        return arrays
    from jax.experimental import multihost_utils

    def sum_of(array: np.ndarray) -> np.ndarray:
        bits = multihost_utils.process_allgather(array.view(np.uint8))  # JAX would make float32 of float64
        return bits.view(array.dtype).sum(axis=0, dtype=array.dtype)

    return [sum_of(array) if array.size else array for array in arrays]
