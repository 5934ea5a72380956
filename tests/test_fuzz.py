"""Whatever is wrong with files, arguments and arrays: the right result or one line of our own, and nothing else."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from conftest import SMALL_SPACES
from experiment_runs import result_of, start, untimed
from fuzzing import fuzz, judge, refused, same, some_word, spoil_array, spoil_bytes, spoil_folder, spoil_json

from experiments import (
    build_table,
    landmark,
    measure_latency,
    pcnas,
    posterior_fading,
    rank_correlation,
    search_compare,
    supernet_factors,
)
from experiments.shared import searching, supernet
from jaxnas import codes, export, runs, tables
from jaxnas.costs import latency, limits
from jaxnas.evaluation import make_evaluator
from jaxnas.files import open_arrays, seal_arrays
from jaxnas.runs import checkpoint, command

SPACE = SMALL_SPACES["tiny"]
ARCHS = codes.enumerate_archs(SPACE)[::9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# Files of figures: tables of truth, latencies of operations.


def truth():
    rng = np.random.default_rng(0)
    columns = {"test_accuracy": rng.random((len(ARCHS), 2)), "params": np.arange(len(ARCHS))}
    units = {"test_accuracy": "fraction", "params": "count"}
    return tables.make_table(SPACE, ARCHS, columns, units=units, provenance={"source": "by lot"})


def latencies():
    setting = latency.Setting(device="cpu", batch_size=2, dtype="float32")
    rng = np.random.default_rng(0)
    return latency.operations_table(
        SPACE, per_op_ms=rng.random((3, 3, 2)), fixed_ms=rng.random(2), setting=setting, provenance={"jax": "0"}
    )


def read_latencies(path):
    table = latency.read_operations_table(path, SPACE)
    return table, latency.setting_of(table), latency.operation_costs(SPACE, table)


FIGURES = {"table": (truth, lambda path: tables.read_table(path, SPACE)), "latencies": (latencies, read_latencies)}


@pytest.mark.parametrize("kind", FIGURES)
@fuzz(12)
def test_bytes_of_a_file_of_figures(folder, kind, rng):
    make, read = FIGURES[kind]
    path = folder / f"{kind}.npz"
    tables.write_table(path, make())
    before = read(path)
    path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    judge(f"{kind}: bytes", lambda: read(path), lambda found: same(found, before))


@pytest.mark.parametrize("kind", FIGURES)
@fuzz(12)
def test_content_of_a_file_of_figures(folder, kind, rng):
    """A file that is whole, of wrong content: what is read then has nothing that a table must not have."""
    make, read = FIGURES[kind]
    path = folder / f"{kind}.npz"
    tables.write_table(path, make())
    meta, arrays = open_arrays(path.read_bytes())
    if rng.random() < 0.5:
        meta = spoil_json(rng, meta)
    else:
        name = rng.choice(sorted(arrays))
        arrays[name] = spoil_array(rng, arrays[name])
    if not all(isinstance(array, np.ndarray) and not array.dtype.hasobject for array in arrays.values()):
        return
    if not isinstance(meta, dict):
        return
    path.write_bytes(seal_arrays(meta, arrays))

    def is_right(found):
        table = found if kind == "table" else found[0]
        finite = all(np.isfinite(column[~np.isnan(column)]).all() for column in table.columns.values())
        fractions = [table.columns[name] for name, unit in table.units.items() if unit == "fraction"]
        inside = all(
            (column[~np.isnan(column)] >= 0).all() and (column[~np.isnan(column)] <= 1).all() for column in fractions
        )
        return finite and inside and table.space.startswith(SPACE.name) and table.archs.dtype == np.int32

    judge(f"{kind}: content", lambda: read(path), is_right)


# Exported networks


@fuzz(40)
def test_json_of_an_architecture(rng):
    text = export.to_json(SPACE, ARCHS[1])
    if rng.random() < 0.5:
        text = spoil_bytes(rng, text.encode()).decode(errors="replace")
    else:
        text = json.dumps(spoil_json(rng, json.loads(text)))
    judge("json of an architecture", lambda: export.from_json(text, SPACE), lambda arch: same(arch, ARCHS[1]))


@fuzz(12)
def test_exported_weights(small_supernet, folder, rng):
    supernet, params = small_supernet("tiny")
    exported, path = export.export(supernet, params, ARCHS[2]), folder / "network.npz"
    export.save(path, exported, SPACE)
    path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    judge("exported weights", lambda: export.load(path, supernet), lambda found: same(found, exported))


# Checkpoints


@pytest.fixture(scope="module")
def saved(folder):
    """A folder of two checkpoints, and the states at their steps."""
    states = {step: {"kernel": np.full((2, 3), step, np.float32), "step": np.int32(step)} for step in (2, 4)}
    for step, state in states.items():
        checkpoint.save(folder / "saved", step, state, fingerprint=SPACE.fingerprint)
    return folder / "saved", states


@fuzz(12)
def test_checkpoints(saved, folder, rng):
    whole, states = saved
    directory = folder / "checkpoints"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(whole, directory)
    spoil_folder(rng, directory)

    def is_right(found):
        return found is None or same(found[1], states[found[0]])

    def restore():
        return checkpoint.restore_latest(directory, states[2], fingerprint=SPACE.fingerprint)

    judge("checkpoints", restore, is_right)


# Results folders


def once(function):
    """What it gave when it was first called: one compilation serves all runs."""
    results = []

    def call(*args, **kwargs):
        if not results:
            results.append(function(*args, **kwargs))
        return results[0]

    return call


RUN = [
    "rank_correlation",
    "tiny",
    "--space",
    "small",
    "--archs-per-save",
    "3",
    "--checkpoint-every",
    "2",
    "--no-progress",
]
BUILT = ("load_problem", "build", "make_score", "make_setup")


@pytest.fixture(scope="module")
def finished(folder, truth):
    """A finished run, and how it is started again on another folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in BUILT:
            patch.setattr(rank_correlation, name, once(getattr(rank_correlation, name)))
        for name in ("draw_scatter", "draw_so_far", "draw_training"):
            patch.setattr(rank_correlation, name, lambda *args: None)
        argv = [*RUN, "--data-dir", truth, "--workdir"]
        start(*argv, folder / "finished")
        yield folder / "finished", lambda workdir: start(*argv, workdir)


@fuzz(4)
def test_results_folders(finished, folder, capfd, rng):
    """A spoilt file of a finished run, or of one that has still to end: the same result, or one line."""
    whole, start_again = finished
    workdir = folder / "again"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(whole, workdir)
    if rng.random() < 0.8:
        (workdir / "result.json").unlink()
    spoil_folder(rng, workdir)

    def call():
        with one_line(capfd):
            start_again(workdir)
        return untimed(result_of(workdir))

    judge("results folders", call, lambda result: result in (None, untimed(result_of(whole))))


@contextlib.contextmanager
def one_line(capfd):
    """Have a command's exit 2 with one line be a ValueError of that line; any other exit fails."""
    capfd.readouterr()
    try:
        yield
    except SystemExit as stop:
        lines = capfd.readouterr().err.strip().splitlines()
        if stop.code != 2 or len(lines) != 1:
            raise AssertionError(f"exit {stop.code}: {lines}") from None
        refused(lines[0])


# Arrays


@fuzz(40)
def test_codes(rng):
    archs = spoil_array(rng, ARCHS)

    def is_right(found):
        inside = ((found >= 0) & (found < np.array(SPACE.num_ops))).all()
        return inside and found.dtype == np.int32 and np.array_equal(found, np.asarray(archs))

    judge("codes", lambda: codes.check(SPACE, archs), is_right)


@fuzz(40)
def test_what_an_evaluator_is_given(small_supernet, rng):
    supernet, params = small_supernet("tiny")
    evaluator = evaluators.setdefault("one", make_evaluator(supernet, images_per_call=4, archs_per_call=4))
    given = {
        "archs": ARCHS,
        "images": np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32),
        "labels": np.arange(4, dtype=np.int32),
    }
    name = rng.choice(sorted(given))
    changed = given | {name: spoil_array(rng, given[name])}

    def is_right(scores):
        """Of as many architectures as were asked for, and of numbers."""
        return scores.loss.shape == (len(changed["archs"]),) and np.isfinite(scores.loss).all()

    judge(f"evaluator: {name}", lambda: evaluator.evaluate(params, **changed), is_right)


evaluators: dict = {}


# Words of the command line


@fuzz(40)
def test_limits(rng):
    text = rng.choice(["{}", "macs:{}", "{}:1", "params:{}"]).format(some_word(rng))

    def is_right(limit):
        name, value = text.split(":")
        return limit.name == name and limit.value == float(value) and np.isfinite(limit.value)

    judge("limits", lambda: limits.parse(text, SPACE), is_right)


class Reached(Exception):
    """The border is behind: everything was checked, and the training or measurement would begin."""


COMMANDS = {
    "build_table": build_table,
    "landmark": landmark,
    "measure_latency": measure_latency,
    "pcnas": pcnas,
    "posterior_fading": posterior_fading,
    "rank_correlation": rank_correlation,
    "search_compare": search_compare,
    "supernet_factors": supernet_factors,
}


@pytest.fixture(scope="module")
def up_to_the_border():
    """Experiments end where the first expensive thing would begin."""

    def reached(*args, **kwargs):
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "resumable", reached)
        patch.setattr(runs, "in_blocks", reached)
        for module in (supernet, searching, posterior_fading):
            patch.setattr(module, "init_train_state", reached)
        patch.setattr(measure_latency, "measure", reached)
        yield


@pytest.mark.parametrize("name", COMMANDS)
@fuzz(4)
def test_values_of_the_command_line(up_to_the_border, folder, capfd, name, rng):
    module = COMMANDS[name]
    fields = {field: type(value) for field, value in runs.flat(module.PRESETS["tiny"]).items()}
    chosen = rng.sample(sorted(fields), rng.choice([1, 2]))
    argv = [
        "tiny",
        *(f"--{field.replace('_', '-')}={some_word(rng)}" for field in chosen),
        "--workdir",
        str(folder / "run"),
    ]
    shutil.rmtree(folder / "run", ignore_errors=True)

    def call():
        try:
            with one_line(capfd):
                command.main(f"experiments.{name}", module.__doc__, module.run, module.PRESETS, argv)
        except Reached:
            return True
        return False

    judge(f"values of {name}", call, bool)
