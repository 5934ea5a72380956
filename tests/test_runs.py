"""The room `runs`: a training that resumes, on a step that one can follow by hand; blocks; configurations of parts."""

import dataclasses
import itertools
import math
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import runs, tables
from jaxnas.checks import Number, Whole
from jaxnas.codes import enumerate_archs
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space

SPACE = chain_space("three", ChainLayout(2, (2,) * 3, (1,) * 3, 0), [("identity", "nor_conv_1x1")] * 3)


class State(NamedTuple):
    step: jax.Array
    total: jax.Array
    key: jax.Array


def fresh() -> State:
    return State(jnp.int32(0), jnp.float32(0), jax.random.key(0))


@jax.jit
def step(state: State, batch: dict) -> tuple[State, dict]:
    """The total of all batches, of which batch n is n + 1: after six steps 1 + 2 + ... + 6 = 21."""
    total = state.total + batch["train"]
    return state._replace(step=state.step + 1, total=total), {"loss": total}


def train(folder, num_steps: int = 6, state: State | None = None, **options) -> runs.Trained:
    options = {"checkpoint_every": 2, "report_every": 1, "progress": False, "fingerprint": "0" * 16} | options
    batch_at = lambda number: {"train": jnp.float32(number + 1)}  # noqa: E731
    return runs.resumable(step, fresh() if state is None else state, batch_at, num_steps, folder, **options)


def losses(trained: runs.Trained) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in trained.rows]


WHOLE = [(1, 1), (2, 3), (3, 6), (4, 10), (5, 15), (6, 21)]


class TestResumable:
    def test_rows_and_state(self, tmp_path):
        given = fresh()
        trained = train(tmp_path / "new" / "run", state=given)
        assert losses(trained) == WHOLE and float(trained.state.total) == 21 and int(trained.state.step) == 6
        assert trained.seconds == trained.rows[-1]["seconds"] > 0
        assert float(given.total) == 0  # still there
        kept = sorted(path.name for path in (tmp_path / "new" / "run" / "checkpoints").iterdir())
        assert kept == ["step_00000004", "step_00000006"]

    def test_reports_are_means_at_the_steps_asked_for(self, tmp_path):
        trained = train(tmp_path, report_every=4, checkpoint_every=9, report_also_at=[3])
        assert losses(trained) == [(3, (1 + 3 + 6) / 3), (4, 10), (6, (15 + 21) / 2)]

    @pytest.mark.parametrize("at", [1, 2, 3, 5, 6])
    def test_an_interrupted_run_ends_alike(self, tmp_path, at):
        """Interrupted in a callback, before the checkpoint of that step: the run goes on from the one before."""
        seen = []

        def interrupt(steps, metrics, state):
            seen.append(steps)
            if steps == at and seen.count(at) == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, callbacks=[interrupt])
        trained = train(tmp_path, callbacks=[interrupt])
        assert losses(trained) == WHOLE and float(trained.state.total) == 21
        last = 2 * ((at - 1) // 2)
        assert seen == [*range(1, at + 1), *range(last + 1, 7)]
        seconds = [row["seconds"] for row in trained.rows]
        assert all(earlier < later for earlier, later in itertools.pairwise(seconds))
        assert jax.random.key_data(trained.state.key).tolist() == [0, 0]

    def test_a_finished_run_is_read(self, tmp_path):
        train(tmp_path)
        before = (tmp_path / "training.csv").read_bytes()
        called = []
        trained = train(tmp_path, callbacks=[lambda *_: called.append(1)])
        assert losses(trained) == WHOLE and not called and (tmp_path / "training.csv").read_bytes() == before

    def test_one_begins_where_another_ended(self, tmp_path):
        train(tmp_path / "first", 3)
        trained = train(tmp_path / "second", start=tmp_path / "first")
        assert losses(trained) == WHOLE[3:] and float(trained.state.total) == 21
        assert losses(train(tmp_path / "first", 3)) == WHOLE[:3]
        nothing_left = train(tmp_path / "third", 3, start=tmp_path / "first")
        assert (nothing_left.rows, nothing_left.seconds, float(nothing_left.state.total)) == ([], 0.0, 6.0)

    def test_a_step_may_consume_its_state(self, tmp_path):
        given, consuming = fresh(), jax.jit(step, donate_argnums=0)
        batch_at = lambda number: {"train": jnp.float32(number + 1)}  # noqa: E731
        runs.resumable(consuming, given, batch_at, 2, tmp_path, fingerprint="0" * 16, progress=False)
        assert float(given.total) == 0

    def test_what_belongs_elsewhere_is_refused(self, tmp_path):
        train(tmp_path, 4)
        with pytest.raises(ValueError, match="newest checkpoint is of step 4, past the 3 asked for"):
            train(tmp_path, 3)
        with pytest.raises(ValueError, match="belongs to the search space 0000000000000000, expected 1"):
            train(tmp_path, fingerprint="1" * 16)


class TestBlocks:
    archs = enumerate_archs(SPACE)

    def scored(self, folder, calls: list):
        def compute(block, bar):
            if len(calls) == 2 and block[0].tolist() == [1, 1, 0]:
                calls.append("killed")
                raise KeyboardInterrupt
            calls.append(block.tolist())
            bar.update(len(block))
            columns = {"sum": block.sum(axis=1)}
            return tables.make_table(SPACE, block, columns, units={"sum": "count"}, provenance={"by": "hand"})

        return runs.in_blocks(compute, self.archs, folder, SPACE, size=3, progress=False)

    def test_only_what_is_missing_is_computed(self, tmp_path):
        calls: list = []
        with pytest.raises(KeyboardInterrupt):
            self.scored(tmp_path, calls)
        columns, seconds = self.scored(tmp_path, calls)
        archs = self.archs.tolist()
        assert calls == [archs[:3], archs[3:6], "killed", archs[6:]]
        assert columns["sum"].tolist() == [0, 1, 1, 2, 1, 2, 2, 3] and seconds > 0
        names = [f"scores_{start:06d}.npz" for start in (0, 3, 6)]
        assert [path.name for path in runs.block_paths(tmp_path, 8, size=3)] == names
        assert sorted(path.name for path in tmp_path.iterdir()) == names
        assert tables.read_table(tmp_path / names[0], SPACE).provenance["by"] == "hand"

    def test_a_damaged_block_is_refused(self, tmp_path):
        self.scored(tmp_path, [0, 0, 0])
        path = tmp_path / "scores_000003.npz"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"scores_000003\.npz: truncated"):
            self.scored(tmp_path, [0, 0, 0])
        path.unlink()
        np.testing.assert_array_equal(self.scored(tmp_path, [0, 0, 0])[0]["sum"], self.archs.sum(axis=1))


@dataclasses.dataclass(frozen=True)
class Inner:
    width: Annotated[int, Whole(1)] | Literal["small"] | None = None
    mode: Literal["sum", "mean"] = "sum"


@dataclasses.dataclass(frozen=True)
class Outer:
    first: Annotated[int, Whole(1, 9)] = 1
    inner: Inner = dataclasses.field(default_factory=Inner)
    flag: bool | None = None
    rate: Annotated[float, Number(0, below=1)] = dataclasses.field(default=0.5, compare=False)
    sizes: tuple[Annotated[int, Whole(1)], ...] = (3,)

    def check(self):
        if self.first * self.rate >= 1:
            raise ValueError(f"first is {self.first}, rate {self.rate}: expected a product below 1.")


@dataclasses.dataclass(frozen=True)
class Twice:
    inner: Inner = dataclasses.field(default_factory=Inner)
    mode: str = "max"


class TestConfig:
    def test_flat(self):
        assert runs.flat(Outer()) == {
            "first": 1,
            "width": None,
            "mode": "sum",
            "flag": None,
            "rate": 0.5,
            "sizes": (3,),
        }
        assert [field.name for field, _ in runs.fields(Outer()) if field.compare] == [
            *("first", "width", "mode", "flag", "sizes")
        ]
        with pytest.raises(TypeError, match="two fields called mode"):
            runs.flat(Twice())

    def test_replace(self):
        changed = runs.replace(Outer(), mode="mean", first=2)
        assert changed == Outer(first=2, inner=Inner(mode="mean"))
        with pytest.raises(TypeError, match="Outer has no field height"):
            runs.replace(Outer(), height=2)

    @pytest.mark.parametrize(
        "changes, words",
        [
            ({"first": 0}, "first is 0, expected 1 to 9."),
            ({"first": None}, "first is None, expected a whole number, 1 to 9."),
            ({"width": 0}, "width is 0, expected 1 to 2147483647, or small, or None."),
            ({"width": "large"}, "width is 'large', expected a whole number, at least 1, or small, or None."),
            ({"mode": "max"}, "mode is 'max', expected one of sum, mean."),
            ({"flag": 1}, "flag is 1, expected one of False, True, or None."),
            ({"rate": math.nan}, "rate is nan, expected a number, at least 0 and below 1."),
            ({"sizes": ()}, "sizes is (), expected one or more: at least 1."),
            ({"sizes": (3, 0)}, "sizes is 0, expected 1 to 2147483647."),
            ({"rate": 0.25, "first": 4}, "first is 4, rate 0.25: expected a product below 1."),
        ],
    )
    def test_check(self, changes, words):
        assert runs.check(Outer()) == Outer()
        for passing in (
            {"width": "small"},
            {"width": 7},
            {"flag": False},
            {"sizes": (1, 2)},
            {"first": 2, "rate": 0.4},
        ):
            runs.check(runs.replace(Outer(), **passing))
        with pytest.raises(ValueError) as error:
            runs.check(runs.replace(Outer(), **changes))
        assert str(error.value) == words

    def test_what_a_type_admits_of_which_nothing_is_said(self):
        assert [str(runs.config.kind_of(kind)) for kind in (int, float, str)] == ["whole", "finite", "a text"]
        with pytest.raises(TypeError, match=r"a field of type dict\[str, int\] says neither range nor list"):
            runs.config.kind_of(dict[str, int])

    @pytest.mark.parametrize(
        "name, text, value",
        [("width", "3", 3), ("mode", "mean", "mean"), ("flag", "true", True), ("rate", "1e-2", 0.01)],
    )
    def test_read_value(self, name, text, value):
        assert runs.read_value(Outer(), name, text) == value

    @pytest.mark.parametrize(
        "name, words",
        [
            ("width", "width: expected a value of type int, got 'x'"),
            ("mode", "mode: unknown value 'x'; choose among sum, mean"),
            ("flag", "flag: unknown value 'x'; choose among true, false"),
        ],
    )
    def test_values_that_make_no_sense(self, name, words):
        with pytest.raises(ValueError, match=words):
            runs.read_value(Outer(), name, "x")
