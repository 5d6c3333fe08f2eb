"""TVM's paged KV cache for the layers of any device: several sequences, any number of rows of each in one call.

Pages are blocks of tokens that sequences share and give back; see `tvm.relax.frontend.nn.llm.kv_cache`. Positions are
turned by our own kernels, so keys lie in the cache as they are attended to. Attention sees all that a sequence has in
the cache: a model with a window is compiled for contexts no longer than that.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode, TIRPagedKVCache

from compile.layers import CausalModel, Layers
from toolchain.contracts.architectures.facts import Architecture

PAGE_SIZE = 16


class PagedCache:
    """The cache object while a function with `count` rows is traced."""

    def __init__(self, facts: Architecture, count: Any, cache: PagedKVCache) -> None:
        self.facts, self.count, self.cache = facts, count, cache
        self.positions = cache.get_query_positions(count)

    def attend(self, qkv: Tensor, layer: int) -> Tensor:
        facts = self.facts
        # Through calls instead of reshapes, which would become kernels that copy.
        heads = _view(qkv, [self.count, facts.heads + 2 * facts.kv_heads, facts.head_size])
        attended = relax.call_dps_packed(
            "vm.builtin.attention_kv_cache_attention_with_fused_qkv",
            [self.cache._expr, relax.prim_value(layer), relax.prim_value(facts.head_size**-0.5), heads],
            out_ty=relax.TensorType((self.count, facts.heads, facts.head_size), qkv.dtype),
        )
        return Tensor(_expr=_emit(_view_expr(_emit(attended), [self.count, facts.query_size], qkv.dtype)))


def describe() -> dict[str, Any]:
    """What a runner must know to make the cache."""
    return {"kind": "paged", "page_size": PAGE_SIZE}


def functions(model: CausalModel, layers: Layers, facts: Architecture, target: Any) -> nn.spec.ModuleSpec:
    """The functions of a model over the paged cache.

    `prefill(ids [M], last [B], cache)` gives the logits `[B, V]` after the rows `last`, each the last of its sequence;
    `decode(ids [1], cache)` those after one more token of one; `score(ids [M], cache)` those after every row.
    `create_cache` takes the most sequences, tokens in all, tokens in a call, and tokens of a page, and gives the cache.
    """

    def hidden(ids: Tensor, cache: PagedKVCache) -> Tensor:
        return model.hidden(ids, PagedCache(facts, ids.shape[0], cache))

    def prefill(ids: Tensor, last: Tensor, cache: PagedKVCache) -> Tensor:
        return model.logits(layers.take_rows(hidden(ids, cache), last))

    def decode(ids: Tensor, cache: PagedKVCache) -> Tensor:
        return model.logits(hidden(ids, cache))

    def create_cache(max_sequences: Any, max_tokens: Any, prefill_chunk: Any, page_size: Any) -> PagedKVCache:
        return create(facts, layers.dtype, target, (max_sequences, max_tokens, prefill_chunk, page_size))

    cache = nn.spec.Object(object_type=PagedKVCache)
    limits = ["max_sequences", "max_tokens", "prefill_chunk", "page_size"]
    ids, one, last = (nn.spec.Tensor([size], "int32") for size in ("count", 1, "sequences"))
    specs = {
        "prefill": nn.spec.MethodSpec(prefill, ["ids", "last", "cache"], [ids, last, cache], "packed", "none"),
        "decode": nn.spec.MethodSpec(decode, ["ids", "cache"], [one, cache], "packed", "none"),
        "score": nn.spec.MethodSpec(decode, ["ids", "cache"], [ids, cache], "packed", "none"),
        "create_cache": nn.spec.MethodSpec(create_cache, limits, [nn.spec.Int()] * len(limits), "none", "none"),
    }
    return nn.spec.ModuleSpec(model, list(specs), list(specs.values()))


def create(facts: Architecture, dtype: str, target: Any, limits: tuple[Any, Any, Any, Any]) -> PagedKVCache:
    """The cache with TVM's own attention kernels for `target`."""
    sequences, tokens, chunk, page = limits
    return TIRPagedKVCache(
        attn_kind="mha",
        max_batch_size=sequences,
        max_total_seq_len=tokens,
        prefill_chunk_size=chunk,
        page_size=page,
        support_sliding_window=tirx.IntImm("int64", 0),
        layer_partition=relax.ShapeExpr([0, facts.layers]),
        num_hidden_layers=facts.layers,
        num_attention_heads=facts.heads,
        num_key_value_heads=facts.kv_heads,
        qk_head_dim=facts.head_size,
        v_head_dim=facts.head_size,
        mla_original_qk_head_dim=0,
        mla_original_v_head_dim=0,
        rope_mode=RopeMode.NONE,
        rope_scale=1,
        rope_theta=10000,
        rope_scaling={},
        rope_ext_factors=relax.prim_value(0),
        rotary_dim=facts.head_size,
        enable_disaggregation=False,
        dtype=dtype,
        target=target,
    )


def _view(tensor: Tensor, shape: list[Any]) -> Any:
    return _emit(_view_expr(tensor._expr, shape, tensor.dtype))


def _view_expr(expression: Any, shape: list[Any], dtype: str) -> Any:
    """The same memory under another shape."""
    return relax.call_pure_packed(
        "vm.builtin.reshape", expression, relax.ShapeExpr(shape), ty_args=relax.TensorType(shape, dtype)
    )


def _emit(expression: Any) -> Any:
    return relax.BlockBuilder.current().emit(expression)
