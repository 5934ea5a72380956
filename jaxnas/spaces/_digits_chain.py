"""The embedded space: 3^5 = 243 chains for scikit-learn's 8x8 digits, small enough to train every one alone.

"identity" is nothing at the first, third and fifth choice (stride 1, equal widths), and a strided 1x1 convolution with
batch normalisation at the second and fourth. The places where it is nothing are never neighbours, so all 243 codes are
distinct stand-alone networks.
"""

from jaxnas.space import ChainLayout
from jaxnas.spaces.chain import chain_space

digits_chain = chain_space(
    "digits_chain",
    ChainLayout(
        stem_width=4,
        widths=(4, 8, 8, 16, 16),
        strides=(1, 2, 1, 2, 1),
        head_width=32,
        image_size=8,
        in_channels=1,
    ),
    [("identity", "mb2_k3", "mb6_k3")] * 5,
)
