"""The experiments `pcnas` and `search_compare` on a space of 16 chains with a table drawn by lot: what they leave in
the workdir, that a run killed in any phase ends as one that was not, and that what cannot be done is said in a line."""

import csv
import itertools
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from experiment_runs import EXPERIMENTS, SMALL, interrupt, refusal, result_of, rows_of, start, struck, untimed
from PIL import Image

from experiments import pcnas, search_compare
from experiments.shared import searching
from experiments.shared.config import settle
from experiments.shared.handing_over import one_by_one
from jaxnas import costs, export, ranking, runs, tables
from jaxnas.codes import enumerate_archs, to_text
from jaxnas.costs import arch_costs, cost_table, op_costs, parse
from jaxnas.costs.latency import Setting, operations_table
from jaxnas.runs import command
from jaxnas.search import pcnas as narrow
from jaxnas.search.regions import Region
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space
from jaxnas.supernets import make_supernet

pytestmark = pytest.mark.usefixtures("no_data_dir")
MACS = arch_costs(SMALL, enumerate_archs(SMALL)).macs
LIMIT = int(np.sort(MACS)[11])  # twelve are feasible
ARGV = ["tiny", "--space", "small", "--no-progress", "--checkpoint-every", "1", "--limit", f"macs:{LIMIT}"]


def steps_of(workdir: Path) -> list[searching.Step]:
    paths = sorted(workdir.glob("seed0/narrowed/*/pool.json"))
    return [searching.Step(**json.loads(path.read_text())["content"]) for path in paths]


def outcome(workdir: Path) -> tuple:
    """All that doesn't measure time: figures, pools, training, and which files there are."""
    result = untimed(result_of(workdir))
    pools = [step._replace(seconds=0.0) for step in steps_of(workdir)]
    rows = []
    for path in sorted(workdir.rglob("training.csv")):
        rows += [untimed(row) for row in rows_of(path)]
    return result, pools, rows, {path.relative_to(workdir) for path in workdir.rglob("*.*")}


@pytest.fixture(scope="module")
def searched(tmp_path_factory, truth) -> Path:
    """The workdir of an uninterrupted search."""
    workdir = tmp_path_factory.mktemp("searched")
    start("pcnas", *ARGV, "--data-dir", truth, "--workdir", workdir)
    return workdir


@pytest.fixture(scope="module")
def compared(tmp_path_factory, truth) -> Path:
    workdir = tmp_path_factory.mktemp("compared")
    start("search_compare", *ARGV, "--data-dir", truth, "--workdir", workdir)
    return workdir


@pytest.mark.parametrize(
    "name, preset", [(name, preset) for name in ("pcnas", "search_compare") for preset in EXPERIMENTS[name].PRESETS]
)
def test_presets_leave_something_to_search(name, preset):
    config = EXPERIMENTS[name].PRESETS[preset]
    values = runs.flat(config)
    space = SPACES[values["space"]]
    per_op, fixed = op_costs(space)
    clock = cost_table(space, per_op.macs * 11 / 250e6, float(fixed.macs) * 11 / 250e6)  # 250 million MACs take 11 ms
    region = Region(space, parse(config.limit, space, {"latency_ms": clock}))
    assert config.pool_size <= region.count() < space.size
    assert config.num_retrained <= config.pool_size + 2
    assert (values["num_eval_images"] or values["num_valid"]) <= values["num_valid"]
    assert values["num_steps"] - config.num_warm_up_steps >= space.num_choices


class TestPcnas:
    def test_result_has_every_figure(self, searched):
        result = result_of(searched)
        promised = [
            *("arch", "limit", "limited_value", "predicted_latency_ms", "measured_latency_ms", "table_accuracy"),
            *("table_rank", "regret", "search_seconds", "trained_steps", "evaluated_archs", "kendall_tau_in_pool"),
            *("kendall_tau_uniform_same_cost", "kendall_tau_in_pool_midway", "kendall_tau_uniform_same_cost_midway"),
        ]
        assert [key for key in promised if key not in result] == []
        assert (result["limit"], result["trained_steps"], result["num_feasible"]) == (f"macs:{LIMIT}", 12, 12)
        assert result["evaluated_archs"] == sum(step.num_scored for step in steps_of(searched)) > 0
        assert result["measured_latency_ms"] is None

    def test_the_outcome_is_judged_by_other_seeds_than_chose_it(self, searched, truth):
        result, archs = result_of(searched), enumerate_archs(SMALL)
        seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"]
        pool = steps_of(searched)[-1].pool
        place = {to_text(SMALL, code): row for row, code in enumerate(archs)}
        rows = [place[to_text(SMALL, code)] for code in pool]
        chosen = max(rows, key=lambda row: seeds[row, 0])
        assert result["arch"] == to_text(SMALL, archs[chosen])
        assert result["limited_value"] == MACS[chosen] == result["macs"] <= LIMIT
        judged = {row: (seeds[row, 1] + seeds[row, 2]) / 2 for row in range(16) if MACS[row] <= LIMIT}
        assert result["table_accuracy"] == pytest.approx(judged[chosen], rel=1e-6)
        assert result["regret"] == pytest.approx(max(judged.values()) - judged[chosen], abs=1e-7)
        assert result["table_rank"] == 1 + sum(value > judged[chosen] for value in judged.values())

    def test_tau_is_taken_on_the_completions_of_the_pool_midway(self, searched, truth):
        """After two of four choices; scores as the run saved them, the rest by hand."""
        seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"]
        place = {tuple(code): row for row, code in enumerate(enumerate_archs(SMALL).tolist())}
        pool = [tuple(prefix[:2]) for prefix in steps_of(searched)[1].pool]
        wanted = {code for code in place if code[:2] in pool and MACS[place[code]] <= LIMIT}
        for name, folder in (("in_pool", "narrowed"), ("uniform_same_cost", "uniform")):
            for suffix, file in (("", "final.npz"), ("_midway", "02/midway.npz")):
                table = tables.read_table(searched / "seed0" / folder / file, SMALL)
                assert {tuple(code) for code in table.archs.tolist()} == wanted
                rows = [place[tuple(code)] for code in table.archs.tolist()]
                tau = scipy.stats.kendalltau(table.columns["accuracy"], seeds[rows, 1:].mean(axis=1)).statistic
                given = result_of(searched)[f"kendall_tau_{name}{suffix}"]
                assert (given is None and np.isnan(tau)) or given == pytest.approx(tau, abs=1e-6)

    def test_the_pool_narrows_to_feasible_networks(self, searched):
        steps = steps_of(searched)
        assert len(steps) == 5
        shares = [step.share_left for step in steps]
        assert (np.diff(shares) <= 0).all() and shares[0] <= 1
        assert shares[-1] == len(steps[-1].pool) / 12
        for step in steps:
            ordered = sorted(step.potentials, reverse=True)
            assert step.pool_potentials == ordered[: len(step.pool)]
        for decided, (before, after) in enumerate(itertools.pairwise(steps[:4]), start=1):
            assert {tuple(code[:decided]) for code in after.pool} <= {tuple(code[:decided]) for code in before.pool}

    def test_what_was_found_has_weights_and_words(self, searched, compared):
        result = result_of(searched)
        supernet = make_supernet(SMALL)
        for folder, name in ((searched, "found"), (compared, "found_pcnas"), (compared, "found_random")):
            found = export.load(folder / f"{name}.npz", supernet)
            assert export.from_json((folder / f"{name}.json").read_text(), SMALL).tolist() == found.arch.tolist()
            assert "stand-alone accuracy" in (folder / f"{name}.txt").read_text()
        assert to_text(SMALL, export.load(searched / "found.npz", supernet).arch) == result["arch"]
        said = f"the accuracy of what it finds is {result['regret']:.4f} below that of the best feasible architecture"
        assert result["verdict"] == said and result["headline"] == "regret"

    def test_pictures_and_table(self, searched, compared):
        for path in (searched / "pool.png", compared / "regret.png"):
            with Image.open(path) as picture:
                assert picture.format == "PNG" and min(picture.size) >= 300
        with (searched / "seeds.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["arch"] == result_of(searched)["arch"] and row["seed"] == "0"

    def test_killed_in_every_phase(self, searched, truth, tmp_path):
        """Warm-up, choosing, training of the pool and of the uniform super-net, scoring: each part in a new start."""
        folder = tmp_path / "seed0"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SPACES, "small", SMALL)
            argv = [*ARGV, "--data-dir", str(truth), "--workdir", str(tmp_path)]
            _, config, *_ = command.parse("python -m experiments.pcnas", None, pcnas.PRESETS, argv)
            config = settle(config)
            task = searching.prepare(config)

        def search():
            origin = {"run": result_of(searched)["run"], "seed": 0}
            found = searching.narrowed(config, task, folder, origin)
            searching.uniform(config, task, folder, np.array(found.steps[1].pool), origin)

        for place in (
            "warm_up/checkpoints/.new_step_00000002/manifest.json",
            "narrowed/01/pool.json",
            "narrowed/02/checkpoints/.new_step_00000006/manifest.json",
            "narrowed/02/midway.npz",
            "narrowed/05/pool.json",
            "uniform/03/checkpoints/.new_step_00000008/manifest.json",
            "uniform/02/midway.npz",
        ):
            if place == "uniform/02/midway.npz":
                (folder / place).unlink()
            with struck(place, interrupt), pytest.raises(KeyboardInterrupt):
                search()
        search()
        for name in ("narrowed", "uniform"):  # what only `run` writes
            shutil.copy(searched / "seed0" / name / "final.npz", folder / name)
        shutil.copy(searched / "result.json", tmp_path)
        ours, theirs = outcome(tmp_path), outcome(searched)
        assert ours[:3] == theirs[:3]
        of_run = {".lock", "config.json", "seeds.csv", "pool.png", "random.json", "report.html"}
        of_run |= {f"found.{suffix}" for suffix in ("json", "npz", "txt", "png")}
        assert theirs[3] - ours[3] == {Path(name) for name in of_run}
        for path in (searched / "seed0").rglob("midway.npz"):
            other = tables.read_table(folder / path.relative_to(searched / "seed0"), SMALL)
            np.testing.assert_array_equal(other.columns["loss"], tables.read_table(path, SMALL).columns["loss"])

    @pytest.mark.parametrize(
        "place, words",
        [
            ("narrowed/02/pool.json", "its interval is 3, expected 2"),
            ("uniform/final.npz", "its interval is 2, expected nothing"),
            ("warm_up/training.csv", "line 2 is"),
        ],
    )
    def test_files_of_another_interval_are_refused(self, searched, truth, tmp_path, capsys, place, words):
        """Copied over, then damaged, then deleted: the search ends as it did."""
        run = tmp_path / "run"
        shutil.copytree(searched, run)
        (run / "result.json").unlink()
        others = {
            "narrowed/02/pool.json": "narrowed/03/pool.json",
            "uniform/final.npz": "uniform/02/midway.npz",
            "warm_up/training.csv": "uniform/01/training.csv",
        }
        path = run / "seed0" / place
        shutil.copy(run / "seed0" / others[place], path)
        argv = ["pcnas", *ARGV, "--data-dir", truth, "--workdir", run]
        assert words in (line := refusal(capsys, *argv)) and str(path) in line and "delete" in line
        if path.suffix == ".json":
            path.write_text((searched / "seed0" / place).read_text().replace("0.", "0.1", 1))
            assert f"{path}: damaged, edited or no pool of a run; delete it" in refusal(capsys, *argv)
        path.unlink()
        if path.suffix != ".csv":
            return  # `test_killed_in_every_phase` has such files made again
        start(*argv)
        assert outcome(run) == outcome(searched)

    def test_both_supernets_share_the_warm_up_and_part_then(self, searched):
        rows = {}
        for part in ("warm_up", "narrowed/01", "uniform/01", "uniform/02"):
            with (searched / "seed0" / part / "training.csv").open(newline="") as file:
                rows[part] = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
        assert [step for step, _ in rows["warm_up"]] == [1, 2]
        assert rows["narrowed/01"][0][0] == rows["uniform/01"][0][0] == 3
        assert rows["narrowed/01"] != rows["uniform/01"]

    def test_latency_of_a_table_of_operations(self, truth, searched, tmp_path):
        """Operations that cost their MACs in ms: the same search, and the sum is the predicted latency."""
        per_op, fixed = op_costs(SMALL)
        setting = Setting("another device", 8, "float32")
        table = operations_table(SMALL, per_op.macs[..., None], fixed.macs[None], setting, provenance={})
        tables.write_table(tmp_path / "ops.npz", table)
        run = tmp_path / "run"
        argv = [*ARGV[:-1], f"latency_ms:{LIMIT}", "--latency-table", tmp_path / "ops.npz"]
        start("pcnas", *argv, "--data-dir", truth, "--workdir", run)
        assert steps_of(run)[0]._replace(seconds=0.0) == steps_of(searched)[0]._replace(seconds=0.0)
        result = result_of(run)
        assert result["arch"] == result_of(searched)["arch"]
        assert result["predicted_latency_ms"] == result["limited_value"] == result["macs"] <= LIMIT
        assert result["measured_latency_ms"] is None  # another device than this one

    def test_a_latency_measured_over_the_limit_is_told(self):
        limit = costs.make_limit(SMALL, "latency_ms", 0.15, lambda archs: np.full(len(archs), 0.1405))
        figures = {"limited_value": 0.1405, "measured_latency_ms": 0.1947}
        told = pcnas.over_limit(limit, figures)
        assert "measured here it takes 0.195 ms, over the limit of 0.15 ms" in told and "predicts, 0.141 ms" in told
        assert pcnas.over_limit(limit, figures | {"measured_latency_ms": 0.149}) == ""
        assert pcnas.over_limit(limit, figures | {"measured_latency_ms": None}) == ""

    @pytest.mark.slow("what a search found is retrained")
    def test_networks_are_retrained_where_there_is_no_table(self, searched, tmp_path):
        """Validation images choose; no figure of a table is given."""
        argv = [*ARGV, "--retrain", "train", "--retrain-epochs", "1", "--data-dir", tmp_path]
        start("pcnas", *argv, "--workdir", tmp_path / "run")
        result = result_of(tmp_path / "run")
        kept = json.loads((tmp_path / "run" / "seed0" / "retrained.json").read_text())["content"]
        pool = steps_of(searched)[-1].pool
        assert kept["arch"] == pool[int(np.argmax(kept["valid_accuracies"]))] and len(kept["valid_accuracies"]) == 2
        assert result["arch"] == to_text(SMALL, kept["arch"]) and 0 < result["retrained_accuracy"] < 1
        assert result["retrained_accuracy"] * 897 == pytest.approx(round(result["retrained_accuracy"] * 897), abs=1e-6)
        assert result["table_accuracy"] is result["regret"] is None

    @pytest.mark.slow("what a search found is retrained")
    @pytest.mark.parametrize("retrain", ["table", "train"])
    def test_the_predictor_chooses_of_what_half_of_the_choices_leave(self, searched, truth, tmp_path, retrain):
        folder = tmp_path / "run" / "seed0"
        argv = [*ARGV, "--choose", "predictor", "--retrain", retrain, "--retrain-epochs", "1"]
        argv += ["--data-dir", truth if retrain == "table" else tmp_path, "--workdir", tmp_path / "run"]
        start("pcnas", *argv)
        result = result_of(tmp_path / "run")
        left = tables.read_table(searched / "seed0" / "narrowed" / "02" / "midway.npz", SMALL)
        codes = [to_text(SMALL, code) for code in left.archs]
        accuracy = ranking.as_scores(left.columns["loss"], left.columns["accuracy"])
        ranks = [scipy.stats.rankdata(values) for values in (accuracy, arch_costs(SMALL, left.archs).macs)]
        mean_rank = sum((rank - rank.mean()) / rank.std() for rank in ranks)
        first = {codes[place] for place in np.flatnonzero(mean_rank >= mean_rank.max() - 1e-9)}
        assert not (tmp_path / "run" / "found.npz").exists()  # the weights of that moment are gone
        if retrain == "table":
            assert result["arch"] in codes
            seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"][:, 0]
            chosen_by = {to_text(SMALL, code): seed for code, seed in zip(enumerate_archs(SMALL), seeds, strict=True)}
            assert result["arch"] in first or chosen_by[result["arch"]] > min(chosen_by[code] for code in first)
        else:
            tried = {path.stem: json.loads(path.read_text())["content"] for path in (folder / "retrained").iterdir()}
            assert len(tried) == 2 and set(tried) <= set(codes) and set(tried) & first
            best = max(value["valid_accuracy"] for value in tried.values())
            assert tried[result["arch"]]["valid_accuracy"] == best
            (tmp_path / "run" / "result.json").unlink()  # as if it had been killed while the second was trained
            (folder / "retrained.json").unlink()
            (folder / "retrained" / f"{result['arch']}.json").unlink()
            (left,) = (folder / "retrained").iterdir()
            written = left.stat().st_mtime_ns
            start("pcnas", *argv)
            assert untimed(result_of(tmp_path / "run")) == untimed(result)
            assert left.stat().st_mtime_ns == written and len(list(left.parent.iterdir())) == 2

    def test_networks_are_named_one_by_one(self):
        """Asked for the accuracy of all but the last, in order; those that come after two depend on what it is."""
        archs, rng, asked = enumerate_archs(SMALL), np.random.default_rng(0), []
        columns = {"loss": rng.random(16), "accuracy": rng.random(16)}
        truth = (archs == archs[5]).sum(axis=1) / archs.shape[1]
        config = runs.replace(pcnas.PRESETS["tiny"], num_retrained=9)

        def accuracy_of(row):
            asked.append(row)
            return truth[row]

        task = types.SimpleNamespace(published=SMALL)
        rows = one_by_one(config, task, archs, columns, accuracy_of)
        assert asked == rows[:-1] and len(set(rows)) == 9
        others = one_by_one(config, task, archs, columns, lambda row: 1 - truth[row])
        assert others[:2] == rows[:2] and others != rows
        assert one_by_one(config, task, archs[:1], columns, accuracy_of) == [0]

    def test_the_same_network_is_not_named_twice(self):
        """Three networks in five codes: the first twins are of one published class, the second ones are live alike."""
        archs = [[3, 3, 0, 2, 0, 0], [1, 3, 0, 2, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 1], [3] * 6]
        classes = SPACES["nasbench201"].isomorphs(np.array(archs))
        assert (classes[0] == classes[1]).all() and (classes[2] != classes[3]).any()
        columns = {"loss": np.arange(5.0), "accuracy": np.arange(5.0)}
        task = types.SimpleNamespace(published=SPACES["nasbench201"])
        config = runs.replace(pcnas.PRESETS["tiny"], num_retrained=5)
        rows = one_by_one(config, task, np.array(archs), columns, lambda row: row / 5)
        assert len(rows) == 3
        assert [len(set(rows) & twin) for twin in ({0, 1}, {2, 3}, {4})] == [1, 1, 1]

    def test_a_pool_of_many_completions_is_ranked_by_a_sample(self):
        """5 x 3^10 completions, of which some are feasible: nothing is listed."""
        layout = ChainLayout(2, (2,) * 20, (1,) * 20, 0, image_size=4)
        space = chain_space("deep", layout, [("identity", "nor_conv_1x1", "nor_conv_3x3")] * 20)
        task = types.SimpleNamespace(search=narrow(space, parse("macs:1e6", space)))
        pool = np.full((5, 20), -1, np.int32)
        pool[:, :10] = np.random.default_rng(0).integers(0, 3, (5, 10))
        archs = searching.midway_archs(pcnas.PRESETS["quick"], task, pool)
        assert 900 < len(archs) <= 1000 and len(np.unique(archs, axis=0)) == len(archs)
        assert {tuple(code[:10]) for code in archs.tolist()} == {tuple(code[:10]) for code in pool.tolist()}

    def test_what_cannot_be_done_is_said_before_the_training(self, truth, tmp_path, capsys):
        def refused(*argv):
            return refusal(capsys, "pcnas", *ARGV[:4], *argv, "--data-dir", truth, "--workdir", tmp_path)

        assert "no architecture meets macs <= 1; the smallest possible is " in refused("--limit", "macs:1")
        assert "a latency needs a measured table" in refused("--limit", "latency_ms:3")
        assert "--sampler" in refused("--sampler", "fair")  # populations are completions of the pool
        assert "num_steps is 5 and num_warm_up_steps 2" in refused("--num-steps", "5")
        assert "num_retrained is 0, expected 1 to " in refused("--num-retrained", "0")
        assert "choose is predictor and retrain none" in refused("--choose", "predictor", "--retrain", "none")
        assert "pool_size is 0, expected 1 to " in refused("--pool-size", "0")
        missing = refusal(capsys, "pcnas", *ARGV[:4], "--data-dir", tmp_path, "--workdir", tmp_path)
        assert "no table of stand-alone accuracies" in missing and "; or without a table: --retrain train" in missing
        assert not list(tmp_path.rglob("pool.json"))


def test_a_factor_is_the_first_component_of_the_roots_of_losses():
    losses = np.random.default_rng(0).gamma(2.0, size=(12, 1)) * np.random.default_rng(1).gamma(2.0, size=(12, 30))
    columns = {"loss": losses.mean(axis=1), "accuracy": np.zeros(12), "image_loss": losses.astype(np.float32)}
    config = runs.replace(pcnas.PRESETS["tiny"], potential="factor")
    centred = np.sqrt(losses) - np.sqrt(losses).mean(axis=0)
    first = np.linalg.svd(centred)[0][:, 0]
    first *= -np.sign(scipy.stats.kendalltau(first, losses.mean(axis=1)).statistic)
    np.testing.assert_allclose(searching.values(config, columns), first * np.sqrt(12), rtol=1e-4, atol=1e-5)
    few = {name: column[:9] for name, column in columns.items()}
    np.testing.assert_allclose(searching.values(config, few), -losses[:9].mean(axis=1), rtol=1e-6)


class TestSearchCompare:
    @pytest.mark.slow("searches that go by the factor of losses, image by image")
    def test_potentials_by_factors(self, truth, tmp_path):
        """Potentials are means of what was scored, not of accuracies; the searches go by factors too."""
        start("search_compare", *ARGV, "--potential", "factor", "--data-dir", truth, "--workdir", tmp_path)
        result, steps = result_of(tmp_path), steps_of(tmp_path)
        assert all(0 <= result[f"{name}_regret"] <= 1 for name in ("pcnas", "spos", "predictor"))
        assert min(step.potentials[-1] for step in steps) < 0  # no accuracy is
        table = tables.read_table(next((tmp_path / "seed0" / "uniform").glob("scores_*.npz")), SMALL)
        assert table.columns["image_loss"].shape == (12, 100)

    def test_result_and_cost(self, compared):
        result = result_of(compared)
        names = ("pcnas", "spos", "evolution", "random")
        assert all(0 <= result[f"{name}_regret"] <= 1 for name in names)
        assert result["num_seeds"] == 2 and result["num_feasible"] == 12
        # 12 steps of 16 images, three passes each; every network that PC-NAS scored saw 100 images
        with (compared / "seeds.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        scored = np.mean([int(row["num_scored"]) for row in rows])
        assert result["total_cost_image_archs"] == 12 * 16 * 3 + 100 * scored
        gaps = [float(row["pcnas"]) - float(row["spos"]) for row in rows]
        assert result["pcnas_minus_spos"] == pytest.approx(np.mean(gaps))
        low, high = scipy.stats.t.interval(0.95, 1, np.mean(gaps), max(scipy.stats.sem(gaps), 1e-300))
        assert result["pcnas_minus_spos_low"] == pytest.approx(low, abs=1e-6)
        assert result["pcnas_minus_spos_high"] == pytest.approx(high, abs=1e-6)

    def test_what_pools_leave_by_hand(self, compared, truth):
        seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"].astype(np.float64)
        feasible, judged = np.flatnonzero(MACS <= LIMIT), seeds[:, 1:].mean(axis=1)
        archs, rows = enumerate_archs(SMALL), rows_of(compared / "pools.csv")
        assert len(rows) == 2 * 5 and [row["num_left"] for row in rows if row["step"] == "1"] == ["12", "12"]
        for row in rows:
            path = compared / f"seed{row['seed']}" / "narrowed" / f"{int(row['step']):02d}" / "pool.json"
            pool = json.loads(path.read_text())["content"]["pool"]
            left = [
                judged[place]
                for place in feasible
                if any(all(op in (-1, taken) for op, taken in zip(prefix, archs[place])) for prefix in pool)
            ]
            assert int(row["num_left"]) == len(left)
            best = judged[feasible].max()
            assert float(row["least_regret"]) == pytest.approx(best - max(left), abs=1e-7)
            assert float(row["mean_regret"]) == pytest.approx(best - np.mean(left), abs=1e-7)

    def test_the_predictor_begins_with_the_mean_rank_of_scores_and_macs(self, compared, truth):
        """Two are retrained, and one label orders nothing yet: they are the first two of all twelve by mean rank."""
        seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"].astype(np.float64)
        feasible, judged = np.flatnonzero(MACS <= LIMIT), seeds[:, 1:].mean(axis=1)
        for row in rows_of(compared / "seeds.csv"):
            paths = sorted((compared / f"seed{row['seed']}" / "uniform").glob("scores_*.npz"))
            columns = [tables.read_table(path, SMALL).columns for path in paths]
            loss, accuracy = (np.concatenate([one[name] for one in columns]) for name in ("loss", "accuracy"))
            ranks = [scipy.stats.rankdata(values) for values in (ranking.as_scores(loss, accuracy), MACS[feasible])]
            mean_rank = sum((rank - rank.mean()) / rank.std() for rank in ranks)
            second = np.sort(mean_rank)[-2]
            both = feasible[mean_rank >= second - 1e-9]  # and whoever is as good
            regrets = {float(judged[feasible].max() - judged[place]) for place in both}
            assert any(float(row["predictor"]) == pytest.approx(regret, abs=1e-7) for regret in regrets)

    def test_halfway_does_so_with_what_the_pool_can_still_become(self, compared, truth):
        seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"].astype(np.float64)
        archs, judged = enumerate_archs(SMALL), seeds[:, 1:].mean(axis=1)
        best, rows, result = judged[MACS <= LIMIT].max(), rows_of(compared / "seeds.csv"), result_of(compared)
        for row in rows:
            folder = compared / f"seed{row['seed']}" / "narrowed" / "02"
            pool = json.loads((folder / "pool.json").read_text())["content"]["pool"]
            left = [
                number
                for number, code in enumerate(archs)
                if MACS[number] <= LIMIT and any(all(op in (-1, at) for op, at in zip(one, code)) for one in pool)
            ]
            table = tables.read_table(folder / "midway.npz", SMALL)
            scored = [table.archs.tolist().index(archs[number].tolist()) for number in left]
            assert len(table.archs) == len(left) >= 3
            accuracy = ranking.as_scores(*(table.columns[name][scored] for name in ("loss", "accuracy")))
            ranks = [scipy.stats.rankdata(values) for values in (accuracy, MACS[left])]
            mean_rank = sum((rank - rank.mean()) / rank.std() for rank in ranks)
            both = np.array(left)[mean_rank >= np.sort(mean_rank)[-2] - 1e-9]
            regrets = {float(best - judged[place]) for place in both}
            assert any(float(row["halfway"]) == pytest.approx(regret, abs=1e-7) for regret in regrets)
        gaps = [float(row["halfway"]) - float(row["random"]) for row in rows]
        assert result["halfway_minus_random"] == pytest.approx(np.mean(gaps))
        assert "halfway_minus_halfway" not in result

    def test_searches_that_score_everything_agree(self, compared, truth):
        """The budget covers the twelve feasible networks: all three find the best of the uniform super-net's scores."""
        seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"].astype(np.float64)
        feasible = np.flatnonzero(MACS <= LIMIT)
        with (compared / "seeds.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            assert int(row["num_scored"]) >= 12
            paths = sorted((compared / f"seed{row['seed']}" / "uniform").glob("scores_*.npz"))
            scores = np.concatenate([tables.read_table(path, SMALL).columns["accuracy"] for path in paths])
            kth = np.sort(scores)[-2]  # the best two are retrained; equals are taken in the order of asking
            possible = [place for place, score in zip(feasible, scores, strict=True) if score >= kth]
            judged = seeds[:, 1:].mean(axis=1)
            regrets = {float(judged[feasible].max() - judged[place]) for place in possible}
            for name in ("spos", "evolution", "random"):
                assert min(abs(float(row[name]) - regret) for regret in regrets) < 1e-6

    @pytest.mark.slow("a comparison of searches is killed and goes on")
    def test_killed_between_the_searches(self, compared, truth, tmp_path):
        argv = ["search_compare", *ARGV, "--data-dir", truth, "--workdir", tmp_path]
        with struck("seed1/narrowed/03/pool.json", interrupt), pytest.raises(SystemExit) as stop:
            start(*argv)
        assert stop.value.code == 130
        start(*argv)
        assert outcome(tmp_path) == outcome(compared)

    def test_curves_are_held_until_the_next_point(self):
        curve = [(10, 0.5), (20, 0.25)]
        np.testing.assert_array_equal(
            search_compare.held(curve, np.array([5, 10, 15, 20, 90])), [np.nan, 0.5, 0.5, 0.25, 0.25]
        )

    def test_too_many_to_list(self, truth, tmp_path, capsys):
        argv = [*ARGV, "--max-listed", "11", "--data-dir", truth, "--workdir", tmp_path]
        assert "12 architectures are feasible, max_listed is 11" in refusal(capsys, "search_compare", *argv)
