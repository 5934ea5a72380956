"""The experiment `search_phase` on a space of 16 chains with a table drawn by lot: its figures by hand from what it
leaves, and that a run goes on policy by policy."""

import json

import numpy as np
import pytest
import scipy.stats
from experiment_runs import SMALL, interrupt, refusal, result_of, rows_of, start, struck, untimed, write_truth
from PIL import Image

from jaxnas import export, tables
from jaxnas.codes import enumerate_archs, to_text
from jaxnas.runs import checkpoint
from jaxnas.supernets import make_supernet

pytestmark = pytest.mark.usefixtures("no_data_dir")
ARGV = ["tiny", "--space", "small", "--no-progress"]
NAMES = ["random", "enas", "darts"]


@pytest.fixture(scope="module")
def fed(tmp_path_factory, truth):
    """The workdir of policies that the table feeds."""
    workdir = tmp_path_factory.mktemp("fed")
    start("search_phase", *ARGV, "--feedback", "table", "--data-dir", truth, "--workdir", workdir)
    return workdir


@pytest.mark.filterwarnings("ignore:Precision loss")  # of the oracle, where a policy ends with one architecture
def test_figures_by_hand(fed, truth):
    result, rows = result_of(fed), rows_of(fed / "searches.csv")
    seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"]
    judged = seeds[:, 1:].mean(axis=1)  # the first seed feeds
    place = {to_text(SMALL, code): row for row, code in enumerate(enumerate_archs(SMALL))}
    ends = {name: np.array([judged[place[row["arch"]]] for row in rows if row["policy"] == name]) for name in
            [*NAMES, "random_search", "evolution"]}  # fmt: skip
    for name, values in ends.items():
        assert len(values) == 2
        assert result[f"fed_{name}_mean_accuracy"] == pytest.approx(values.mean())
        assert result[f"fed_{name}_minus_uniform"] == pytest.approx(values.mean() - judged.mean())
        assert result[f"fed_{name}_best_accuracy"] == pytest.approx(values.max())
        rank = 1 + int((judged > values.max()).sum())
        assert result[f"fed_{name}_best_rank"] == rank
        assert result[f"fed_{name}_prob_surpass_random"] == pytest.approx((1 - rank / 16) ** 2)
        if name != "random":
            varies = np.ptp(values) > 0 or np.ptp(ends["random"]) > 0
            welch = scipy.stats.ttest_ind(values, ends["random"], equal_var=False).pvalue
            assert result[f"fed_{name}_p_value"] == (pytest.approx(welch) if varies else None)
            assert result[f"fed_{name}_minus_random"] == pytest.approx((values - ends["random"]).mean())
            # Means of two differences drawn with repetition: one of them, the other, or between, at 1 : 1 : 2.
            low, high = (result[f"fed_{name}_minus_random_bootstrap_{side}"] for side in ("low", "high"))
            assert [low, high] == pytest.approx(sorted(values - ends["random"]))
        kept = [row["arch"] for row in rows if row["policy"] == name]
        identities = sum(text.count("0") for text in kept)
        # Of the four layers the second is strided, where identity is a convolution.
        strided = sum(text.replace("-", "")[1] == "0" for text in kept)
        assert result[f"fed_{name}_parameter_free"] == pytest.approx((identities - strided) / 8)
    assert "enas_mean_accuracy" not in result
    with Image.open(fed / "outcomes.png") as picture:
        assert picture.width > 900


def test_of_eight_look_ups_the_best_is_taken(fed, truth):
    """Random search without repetition: at least as good on the seed that feeds as half of the space."""
    seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"]
    place = {tuple(code): row for row, code in enumerate(enumerate_archs(SMALL).tolist())}
    for name in ("random_search", "evolution"):
        for code in json.loads((fed / "table" / f"{name}.json").read_text())["content"]["archs"]:
            assert (seeds[:, 0] <= seeds[place[tuple(code)], 0]).sum() >= 8


def test_goes_on_policy_by_policy(fed, truth, tmp_path):
    arguments = [*ARGV, "--feedback", "table", "--data-dir", truth, "--workdir", tmp_path]
    with struck("darts.json", interrupt), pytest.raises(SystemExit):
        start("search_phase", *arguments)
    before = (tmp_path / "table" / "enas.json").read_bytes()
    start("search_phase", *arguments)
    assert (tmp_path / "table" / "enas.json").read_bytes() == before
    assert untimed(result_of(tmp_path)) == untimed(result_of(fed))


@pytest.mark.slow("trains six super-nets")
def test_goes_on_within_a_training(truth, tmp_path):
    """Killed at the checkpoint in the middle of a mixture's and a controller's training."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = [*ARGV, "--feedback", "weights", "--data-dir", truth, "--workdir"]
    start("search_phase", *arguments, whole)
    save = checkpoint.save
    for place in ("enas/seed1/checkpoints", "darts/seed0/checkpoints"):

        def save_or_die(folder, step, *args, place=place, **options):
            if folder.as_posix().endswith(place) and step == 4:  # that of step 2 is there
                raise KeyboardInterrupt
            return save(folder, step, *args, **options)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(checkpoint, "save", save_or_die)
            start("search_phase", *arguments, broken)
        assert (broken / "weights" / place / "step_00000002").is_dir()
    start("search_phase", *arguments, broken)
    result = result_of(whole)
    assert untimed(result_of(broken)) == untimed(result)
    for name in NAMES:
        assert result[f"{name}_forward_passes"] > 0
    assert len(rows_of(whole / "weights" / "enas" / "seed1" / "training.csv")) == 4
    supernet = make_supernet(SMALL)
    for name in NAMES:
        assert (whole / f"found_{name}.npz").read_bytes() == (broken / f"found_{name}.npz").read_bytes()
        found = export.load(whole / f"found_{name}.npz", supernet)
        assert export.from_json((whole / f"found_{name}.json").read_text(), SMALL).tolist() == found.arch.tolist()


def test_a_table_without_a_second_measurement_feeds_nobody(capsys, tmp_path):
    write_truth(tmp_path, np.random.default_rng(0).random((16, 1)))
    line = refusal(capsys, "search_phase", *ARGV, "--data-dir", tmp_path, "--workdir", tmp_path / "run")
    assert line.endswith("is what they are judged by; take --feedback weights.")


@pytest.mark.parametrize(
    "policies, said",
    [
        (("enas",), "random, which the others are compared with, is among them."),
        (("random", "pc_darts"), "pc_darts weighs the edges into a node"),
        (("random", "annealing"), "policies is ('random', 'annealing')"),
    ],
)
def test_policies_that_cannot_be_compared(capsys, truth, tmp_path, policies, said):
    argv = [*ARGV, "--data-dir", truth, "--workdir", tmp_path / "run", "--policies", *policies]
    line = refusal(capsys, "search_phase", *argv)
    assert said in line or "is for cells" in line or "annealing" in line
