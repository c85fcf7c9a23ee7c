"""Sigmoid attention (arXiv 2409.04431) behind the signatures of torch's own functions.

`-ln n` is added to the scores, n being the number of keys of each sequence that exist: those that some query may see.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sigmel.errors import SigmelError
from sigmel.ops import sigmoid_attention

# A key is hidden by a float mask at or below this: hosts write -inf, the smallest float, or -10000.
HIDDEN = -1000.0


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    keys: int | None = None,
) -> Tensor:
    """`F.scaled_dot_product_attention` with sigmoids in place of softmax.

    The fused op serves calls without dropout whose mask, if any, is causal or says which keys exist. To see that a
    mask says no more than that, its values are read; while a graph is traced they cannot be read, and only a bool mask
    that is broadcast over heads and queries is taken for a mask of keys. All other calls make a matrix of weights.

    Args:
        query: (..., H, L, D).
        key, value: (..., Hkv, S, D); a value may have another size.
        attn_mask: bool, true where a query sees a key, or float, added to the scores. Default: None.
        dropout_p: of the weights. Default: 0.
        is_causal: query t sees the keys up to t. Default: False.
        scale: of the scores. Default: D ** -0.5.
        enable_gqa: each key head serves H / Hkv query heads. Default: False.
        keys: n. Default: None, the number of keys that exist.

    Returns:
        (..., H, L, size of a value).

    Raises:
        SigmelError: nested tensors.
    """
    if query.is_nested:
        raise SigmelError("query: sigmoid attention takes padded tensors and a mask, not nested tensors")
    if is_causal:  # no query sees the keys after the last query
        key, value = key[..., : query.shape[-2], :], value[..., : query.shape[-2], :]
    four = query.dim() == 4 and key.shape == value.shape and key.shape[:1] == query.shape[:1]
    if four and dropout_p == 0.0 and (attn_mask is None or not is_causal):
        bias = None if keys is None else -math.log(keys)
        if attn_mask is None:
            return sigmoid_attention(query, key, value, scale=scale, bias=bias, causal=is_causal)
        exist = _keys_that_exist(attn_mask, key)
        if exist is not None:
            key, value, lengths = _moved_to_the_front(key, value, exist)
            return sigmoid_attention(query, key, value, scale=scale, bias=bias, key_lengths=lengths)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    return attention_weights(query, key, attn_mask, dropout_p, is_causal, scale, keys).to(value.dtype) @ value


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    keys: int | None,
) -> Tensor:
    """(..., H, L, S) weights, in float32 at least; see `scaled_dot_product_attention`."""
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    if is_causal:
        seen = seen.tril()
    if attn_mask is not None:
        if attn_mask.dtype != torch.bool:
            scores = scores + attn_mask
            attn_mask = attn_mask > HIDDEN
        seen = seen & attn_mask
    if keys is None:
        exist = seen.any(-2, keepdim=True)
        if query.dim() > 3 and exist.dim() > 2:  # the heads are those of one sequence
            exist = exist.any(-3, keepdim=True)
        bias = -exist.sum(-1, keepdim=True).clamp(min=1).to(scores.dtype).log()
    else:
        bias = scores.new_tensor(-math.log(keys))
    return F.dropout(torch.where(seen, torch.sigmoid(scores + bias), 0.0), dropout_p)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    keys: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward`, which `nn.MultiheadAttention` calls, with sigmoids in place of softmax.

    Keys that `bias_k` and `add_zero_attn` append are keys that exist.

    Args:
        query: (L, B, E), or (L, E), of the `embed_dim_to_check` features E.
        key, value: (S, B, Ek) and (S, B, Ev), or without B.
        key_padding_mask: (B, S) or (S,); true, or -inf, hides a key.
        attn_mask: (L, S) or (B * H, L, S); true hides a key from a query, a float is added to the score.
        keys: n. Default: None, the number of keys that exist.
        All other arguments are those of torch's function.

    Returns:
        (L, B, E), and with `need_weights` (B, L, S) or, not averaged, (B, H, L, S); without B if the query has no B.

    Raises:
        SigmelError: `is_causal` without an `attn_mask`; `static_k` or `static_v`.
    """
    if static_k is not None or static_v is not None:
        raise SigmelError("static_k, static_v: sigmoid attention does not take them")
    if is_causal and attn_mask is None:
        raise SigmelError("is_causal: it is a hint about attn_mask, which is not given")
    if query.shape[-1] != embed_dim_to_check:
        raise SigmelError(f"query: {query.shape[-1]} features, expected {embed_dim_to_check}")
    batched = query.dim() == 3
    if not batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    weights: tuple[Any, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    if in_proj_weight is not None and not use_separate_proj_weight:
        weights = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)  # (B, H, L or S, D)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    if bias_k is not None and bias_v is not None:
        k, v = (
            torch.cat([x, more.view(num_heads, 1, -1).expand(len(x), -1, -1, -1)], 2)
            for x, more in ((k, bias_k), (v, bias_v))
        )
    if add_zero_attn:
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))

    # If the causal hint is all that the mask says, the op needs no mask.
    causal = is_causal and key_padding_mask is None and not need_weights and k.shape[2] == key.shape[0]
    mask = None if causal else _merged(attn_mask, key_padding_mask, num_heads, q.dtype)
    if mask is not None:
        mask = F.pad(mask, (0, k.shape[2] - key.shape[0]))
    dropout_p = dropout_p if training else 0.0
    shown = None
    if need_weights:
        shown = attention_weights(q, k, mask, dropout_p, False, None, keys).to(v.dtype)
        heads = shown @ v
    else:
        heads = scaled_dot_product_attention(q, k, v, mask, dropout_p, causal, keys=keys)
    output = F.linear(heads.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    if shown is not None and average_attn_weights:
        shown = shown.mean(1)
    if not batched:
        output, shown = output.squeeze(1), None if shown is None else shown.squeeze(0)
    return output, shown


def _keys_that_exist(mask: Tensor, key: Tensor) -> Tensor | None:
    """The keys (B, S) bool that exist by a mask, broadcast to (B, H, L, S); None where the mask may say more."""
    mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    exist = mask[:, :1, :1]
    one_row = all(mask.shape[dim] == 1 or mask.stride(dim) == 0 for dim in (1, 2))
    if not one_row and not (_may_look() and bool((mask == exist).all())):
        return None
    if mask.dtype != torch.bool:
        # A mask that is learned may be zero now and change later.
        if mask.requires_grad or not (_may_look() and bool(((exist == 0) | (exist <= HIDDEN)).all())):
            return None
        exist = exist > HIDDEN
    return exist[:, 0, 0].expand(key.shape[0], key.shape[2])


def _moved_to_the_front(key: Tensor, value: Tensor, exist: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values (B, H, S, D), those that exist (B, S) first, and how many these are (B,)."""
    lengths = exist.sum(1)
    first = torch.arange(exist.shape[1], device=exist.device) < lengths[:, None]
    # Mostly nothing has to move. On a GPU, moving keys costs less than waiting for the answer of a comparison.
    if exist.device.type == "cpu" and _may_look() and torch.equal(exist, first):
        return key, value, lengths
    order = exist.int().argsort(dim=1, descending=True, stable=True)[:, None, :, None]
    return key.gather(2, order.expand_as(key)), value.gather(2, order.expand_as(value)), lengths


def _may_look() -> bool:
    """Whether values of tensors can be read: not while a graph is traced."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def _merged(attn_mask: Tensor | None, padding: Tensor | None, num_heads: int, dtype: torch.dtype) -> Tensor | None:
    """A float mask to add to scores (B, H, L, S), which it broadcasts to, made of masks in which true hides a key."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (-1, num_heads)))
    if padding is not None:
        masks.append(padding.reshape(-1, 1, 1, padding.shape[-1]))
    added = [torch.zeros_like(x, dtype=dtype).masked_fill(x, -math.inf) if x.dtype == torch.bool else x for x in masks]
    return sum(added[1:], start=added[0]) if added else None
