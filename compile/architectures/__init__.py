"""Model families as Relax definitions and weight maps: the counterpart of `toolchain/contracts/architectures/`.

One module a family; each gives `Model`, a `relax.frontend.nn.Module` built from facts and a style,
`weight_shapes(facts)`, every tensor by MLC's name, and `weight_map(facts)`, the checkpoint's tensor for each.
"""

from compile.architectures import gpt_bigcode

FAMILIES = {"gpt_bigcode": gpt_bigcode}
