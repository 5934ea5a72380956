"""A found architecture on its own: its code as JSON, what it consists of, its weights, whether it meets the limit, and
files that others read.

    exported = export(supernet, params, arch, stats)       # weights sliced out of the super-net's, or trained alone
    save("found.npz", exported, supernet.space)            # or found.safetensors
    exported = load("found.npz", supernet)
    module, variables = flax_module(supernet, exported)    # logits = module.apply(variables, images)
    print(in_words(space, exported.arch, accuracy=0.91), summary(supernet, exported.arch), sep="\n\n")
    replace_file("found.stablehlo", to_stablehlo(supernet, exported))

To train it from scratch, `make_standalone(supernet, recipe, compiled="each", return_weights=True, ...)` gives weights
that `export` takes.
"""

from jaxnas.export.described import describe, from_json, in_words, named_space, summary, to_json
from jaxnas.export.network import Exported, export, flax_module, load, save, space_in
from jaxnas.export.programs import to_onnx, to_stablehlo

__all__ = [
    "Exported",
    "describe",
    "export",
    "flax_module",
    "from_json",
    "in_words",
    "load",
    "named_space",
    "save",
    "space_in",
    "summary",
    "to_json",
    "to_onnx",
    "to_stablehlo",
]
