"""What a Perceiver looks at: the weights of its cross-attends."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import haiku as hk
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import InputMask, Params, QueryMask, State
from perceiver_jax.build import build_with_state
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.cross_attention import CrossAttention
from perceiver_jax.nn.repeat import Remat


class AttentionMaps(NamedTuple):
  """The attention weights of every cross-attend, in float32.

  A row sums to 1: it is how one head of one reader spreads its attention. What
  is masked has a weight of 0, and a reader that is masked, or that has nothing
  to read, a row of zeros.

  Attributes:
    inputs: how latents read input tokens; one array for each cross-attend, in
      order. Tokens stand in the order of `Tokens.dense()`.
    outputs: how output queries read latents; None with an `AverageDecoder`.
  """

  inputs: tuple[Float[Array, 'B H N M'], ...]
  outputs: Float[Array, 'B H O N'] | None


@runtime_checkable
class MakeAttentionMaps(Protocol):
  """Computes the attention maps of inputs."""

  def __call__(
    self,
    params: Params,
    inputs: Any,
    queries: Any | None = None,
    *,
    state: State | None = None,
    input_mask: InputMask | None = None,
    query_mask: QueryMask | None = None,
    latents: Sequence[int] | None = None,
  ) -> AttentionMaps:
    """Returns the weights of every cross-attend.

    All of them can be large: N times M numbers a head and cross-attend, and O
    times N for the outputs. Under `jax.jit`, maps that the jitted function does
    not return are not computed.

    Args:
      params: as for `apply`, like the arguments that are not named here.
      inputs: as the input modality defines them.
      queries: as the output modality defines them.
      state: running statistics, if the model has them.
      input_mask: which tokens to use.
      query_mask: which queries read.
      latents: of which latents to return how they read the inputs; None: all.
    """
    ...


def attention_maps(config: PerceiverConfig) -> MakeAttentionMaps:
  """Makes the function that computes attention maps; it is pure.

  The model runs as it always does, by whichever algorithm, and the weights are
  computed beside it, once more.

  Args:
    config: is copied; later changes to it have no effect.

  Raises:
    ValueError: the config is inconsistent.
  """
  config = _without_loops(config)
  apply = build_with_state(config).apply

  def maps(
    params, inputs, queries=None, *, state=None, input_mask=None,
    query_mask=None, latents=None,
  ):  # fmt: skip
    found = []

    def note(call, args, kwargs, context):
      is_attention = isinstance(context.module, CrossAttention)
      if is_attention and context.method_name == '__call__':
        readers, *others = args
        if latents is not None and len(found) < config.num_cross_attends:
          readers = readers[:, list(latents)]
        found.append(context.module.weights(readers, *others))
      return call(*args, **kwargs)

    with hk.intercept_methods(note):
      masks = {'input_mask': input_mask, 'query_mask': query_mask}
      apply(params, state or {}, None, inputs, queries, **masks)
    count = config.num_cross_attends
    # Of queries of several modalities, each has its own.
    outputs = jnp.concatenate(found[count:], 2) if found[count:] else None
    return AttentionMaps(tuple(found[:count]), outputs)

  return maps


def _without_loops(config: PerceiverConfig) -> PerceiverConfig:
  """Returns the same model, with its cross-attends out of loops and remat.

  Inside of these no array can be noted for later.
  """
  config = config.copy()
  config.unroll = config.unroll or config.reads_inputs_again
  config.cross_attend.remat = Remat.NONE
  if isinstance(config.decoder, AttentionDecoder):
    config.decoder.cross_attend.remat = Remat.NONE
    config.decoder.decode_at_once()
  return config
