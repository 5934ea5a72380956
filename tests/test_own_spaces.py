"""A space of the user's own, given as `package.module:object` or `file.py:object`: named wrongly, and tried whole."""

import numpy as np
import pytest
from experiment_runs import refusal, result_of, start

from jaxnas.codes import enumerate_archs
from jaxnas.spaces import get_space, nasbench201

SOURCE = """
import flax.linen as nn
import jax.numpy as jnp
from jaxnas.costs import Costs
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space, nasbench201

class Scale(nn.Module):
    @nn.compact
    def __call__(self, x, tape):
        return x * self.param("scale", nn.initializers.ones, ())

def costs(space, archs):
    return Costs(1000.0 + (archs == 1).sum(axis=1), 10.0 + 4 * (archs == 1).sum(axis=1))

layout = ChainLayout(stem_width=4, widths=(4,) * 4, strides=(1,) * 4, head_width=0, image_size=4, in_channels=1)
operations = {"scale": lambda channels, stride, affine, policy: Scale()}
mine = chain_space("mine", layout, [("nor_conv_1x1", "scale")] * 4, operations=operations, costs=costs)
smaller = nasbench201.resized(width=4)
stolen = chain_space("nasbench201", layout, [("nor_conv_1x1", "scale")] * 4, operations=operations)
number = 3
"""


@pytest.fixture
def spaces_file(tmp_path, monkeypatch):
    """The file, which is also the module `mypackage_of_tests.spaces`."""
    package = tmp_path / "mypackage_of_tests"
    package.mkdir()
    (package / "spaces.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return package / "spaces.py"


def test_both_ways_to_name_a_space(spaces_file):
    by_file, by_module = get_space(f"{spaces_file}:mine"), get_space("mypackage_of_tests.spaces:mine")
    assert by_file.name == "mine" and by_file.fingerprint == by_module.fingerprint
    assert get_space(f"{spaces_file}:mine") is by_file
    assert get_space(f"{spaces_file}:smaller").fingerprint == nasbench201.fingerprint


@pytest.mark.parametrize(
    "name, words",
    [
        ("mypackage_of_tests.spices:mine", "cannot import mypackage_of_tests.spices (ModuleNotFoundError"),
        ("no_such_file.py:mine", "cannot import no_such_file.py (FileNotFoundError"),
        ("mypackage_of_tests.spaces:yours", "no such object; the spaces of mypackage_of_tests.spaces are nasbench201,"),
        ("mypackage_of_tests.spaces:number", "this is a int, no SearchSpace"),
        ("mypackage_of_tests.spaces:stolen", "is called nasbench201, as one with other operations"),
        ("mine", "or one of your own as package.module:object or file.py:object"),
    ],
)
def test_what_is_no_space(spaces_file, name, words):
    with pytest.raises(ValueError) as error:
        get_space(name)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_table_is_made_and_ranked(spaces_file, tmp_path, capsys):
    """No table says how to make one; then all 16 networks are trained, and a super-net is compared with them."""
    ranked = ["rank_correlation", "tiny", "--space", f"{spaces_file}:mine", "--num-steps", "4", "--no-progress"]
    ranked += ["--data-dir", tmp_path / "built", "--workdir", tmp_path / "ranked"]
    line = refusal(capsys, *ranked)
    assert "mine on digits: no table" in line and "by: jaxnas build_table --dataset digits" in line
    built = ["build_table", "tiny", "--num-archs", "16", "--num-seeds", "2", "--num-epochs", "1", "--no-progress"]
    start(*built, "--space", f"{spaces_file}:mine", "--workdir", tmp_path / "built")
    start(*ranked)
    result = result_of(tmp_path / "ranked")
    assert (result["space"], result["num_archs"], result["config"]["space"]) == ("mine", 16, f"{spaces_file}:mine")
    assert np.isfinite(result["kendall_tau"])
    macs = [row.split(",")[-1] for row in (tmp_path / "ranked" / "scores.csv").read_text().split()[1:]]
    scaled = (enumerate_archs(get_space(f"{spaces_file}:mine")) == 1).sum(axis=1)
    assert [float(entry) for entry in macs] == (1000 + scaled).tolist()  # by the space's own function
