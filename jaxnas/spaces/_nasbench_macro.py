"""NAS-Bench-Macro (Su et al., CVPR 2021, arXiv 2103.11922): 3^8 = 6,561 chains for CIFAR-10.

Three stages of 2, 3 and 3 layers; the first layer of each has stride 2 and doubles the channels. At these three places
"identity" is a strided 1x1 convolution with batch normalisation, elsewhere it is nothing, so that the codes stand for
3,969 distinct stand-alone networks. A code's text is the key in the authors' table, as in "22212202".
"""

from jaxnas.space import ChainLayout
from jaxnas.spaces.chain import chain_space

nasbench_macro = chain_space(
    "nasbench_macro",
    ChainLayout(
        stem_width=32,
        widths=(64, 64, 128, 128, 128, 256, 256, 256),
        strides=(2, 1, 2, 1, 1, 2, 1, 1),
        head_width=1280,
    ),
    [("identity", "mb3_k3", "mb6_k5")] * 8,
)
