"""Model families as Relax definitions and weight maps: the counterpart of `toolchain/contracts/architectures/`.

One module a family; each gives

- `Model(facts, build)`, a `CausalModel` made of what the `Layers` `build` offers, with MLC's parameter names,
- `weight_shapes(facts)`, the shape of every tensor by MLC's name,
- `weight_map(facts)`, the checkpoint's tensors that lie one after the other in each (axis 0),
- `reference(facts, weights, ids, rows)`, its logits in NumPy, put together from `compile/reference.py`,
- `model_config(facts)`, the values that MLC's own definition of the family reads, and `TEMPLATE`, the name of MLC's
  template for text that is continued as it is.
"""

from compile.architectures import gpt_bigcode, llama, qwen2, starcoder2

FAMILIES = {"gpt_bigcode": gpt_bigcode, "llama": llama, "qwen2": qwen2, "starcoder2": starcoder2}
