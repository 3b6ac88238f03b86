"""From a config to the pure functions that other JAX code calls."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from perceiver_jax.arrays import (
  ExampleRngs,
  InputMask,
  Latents,
  Params,
  QueryMask,
  Rng,
  State,
)
from perceiver_jax.modalities import example_rngs
from perceiver_jax.model import PerceiverConfig, Precision
from perceiver_jax.modules import Decoder, Encoded, Encoder, Processor
from perceiver_jax.nn.tokens import AxisFeatures


@runtime_checkable
class Init(Protocol):
  """Makes the parameters of a Perceiver."""

  def __call__(self, rng: Rng, inputs: Any) -> Params:
    """Returns new parameters.

    Args:
      rng: the key they are drawn with.
      inputs: inputs of the right shape and dtype; their values do not matter.
    """
    ...


@runtime_checkable
class Apply(Protocol):
  """Computes outputs from inputs: `decode(process(encode(inputs)))`."""

  def __call__(
    self,
    params: Params,
    rng: Rng | ExampleRngs | None,
    inputs: Any,
    queries: Any | None = None,
    *,
    is_training: bool = False,
    input_mask: InputMask | None = None,
    query_mask: QueryMask | None = None,
  ) -> Any:
    """Returns the outputs, in float32.

    Args:
      params: what `init` returned.
      rng: a key for what is random, needed only if `is_training`; or one for
        each example, of `jax.random.key`. Then what inputs draw for an example,
        such as whether a modality is dropped, depends on its own key alone;
        dropout of attention depends on the first.
      inputs: as the input modality defines them.
      queries: as the output modality defines them, all or a part; None: its
        own, or the input tokens if it is queried by them.
      is_training: whether dropout applies and batch statistics are used.
      input_mask: which tokens to use. None: all. Without any, the latents
        read zeros.
      query_mask: which queries read. None: all.

    Masks of several modalities are one array over all of them, or a dict of
    arrays, where None or no mask means all of a modality.

    Raises:
      ValueError: `is_training` without an rng, or inputs of a wrong shape.
      TypeError: inputs of a wrong dtype.
    """
    ...


@runtime_checkable
class Encode(Protocol):
  """Reads the inputs into the latents, with the first cross-attend."""

  def __call__(
    self,
    params: Params,
    rng: Rng | ExampleRngs | None,
    inputs: Any,
    *,
    is_training: bool = False,
    input_mask: InputMask | None = None,
  ) -> Encoded:
    """Returns latents, and the tokens if they are needed; see `Apply`.

    They are if `process` reads the inputs again, or if they are the queries of
    the outputs: `decode(params, rng, latents, encoded.tokens)`.
    """
    ...


@runtime_checkable
class Process(Protocol):
  """Runs the deep latent transformer."""

  def __call__(
    self,
    params: Params,
    rng: Rng | ExampleRngs | None,
    encoded: Encoded,
    *,
    is_training: bool = False,
  ) -> Latents:
    """Returns processed latents; see `Apply` for the arguments."""
    ...


@runtime_checkable
class Decode(Protocol):
  """Reads outputs from the latents."""

  def __call__(
    self,
    params: Params,
    rng: Rng | ExampleRngs | None,
    latents: Latents,
    queries: Any | None = None,
    *,
    is_training: bool = False,
    query_mask: QueryMask | None = None,
  ) -> Any:
    """Returns the outputs, in float32; see `Apply` for the arguments.

    Outputs that are queried by the inputs need `encoded.tokens` as `queries`.
    Outputs of a part of the queries are the same as that part of all outputs.
    """
    ...


class Perceiver(NamedTuple):
  """A Perceiver as pure functions over one tree of parameters.

  They take `(params, rng, *arrays)` in Haiku's order and work under `jax.jit`,
  `pmap`, `vmap`, `grad`, `checkpoint`, `eval_shape`, `export`, and through
  `hk.lift` inside a larger Haiku network.

  Forward-mode differentiation (`jax.jvp`, `linearize`, `jacfwd`), and an
  `export` for any batch size, need inputs to be read by the algorithm PLAIN or
  ABSORBED (`cross_attend.algorithm`). Such an export needs an `AverageDecoder`,
  too.
  """

  init: Init
  apply: Apply
  encode: Encode
  process: Process
  decode: Decode


class PerceiverWithState(NamedTuple):
  """A Perceiver whose functions also take and return running statistics.

  `init(rng, inputs)` returns `(params, state)`; the others take
  `(params, state, rng, *arrays)` and return `(output, state)`, with the
  arguments of their namesakes in `Perceiver`.
  """

  init: Callable[..., tuple[Params, State]]
  apply: Callable[..., tuple[Any, State]]
  encode: Callable[..., tuple[Encoded, State]]
  process: Callable[..., tuple[Latents, State]]
  decode: Callable[..., tuple[Any, State]]


def build(config: PerceiverConfig) -> Perceiver:
  """Makes the pure functions of the Perceiver that `config` describes.

  Args:
    config: is copied; later changes to it have no effect.

  Raises:
    ValueError: the config is inconsistent, or describes a model with running
      statistics, which needs `build_with_state`.
  """
  if config.inputs.has_state:
    raise ValueError(
      f'the inputs of build() must not keep running statistics, got '
      f'{type(config.inputs).__name__} with batch normalisation; use '
      'build_with_state().'
    )
  stateful = build_with_state(config)

  def init(rng, inputs):
    return stateful.init(rng, inputs)[0]

  def without_state(function):
    def call(params, rng, *args, **kwargs):
      return function(params, {}, rng, *args, **kwargs)[0]

    return call

  return Perceiver(
    *map(_described, _PROTOCOLS, (init, *map(without_state, stateful[1:])))
  )


def build_with_state(config: PerceiverConfig) -> PerceiverWithState:
  """Makes the functions of any Perceiver, with running statistics or without.

  Args:
    config: is copied; later changes to it have no effect.

  Raises:
    ValueError: the config is inconsistent.
  """
  config = config.copy().freeze()
  config.validate()
  transformed = hk.multi_transform_with_state(lambda: _functions(config))
  policy = _policy(config.precision)
  cast_to_compute = functools.partial(_cast_to_compute, policy)

  def cast_inputs(inputs):
    return config.inputs.cast(inputs, policy.compute_dtype)

  read = _prepared(transformed.apply[0], cast_to_compute, cast_inputs)
  process, decode = (
    _prepared(verb, cast_to_compute, cast_to_compute)
    for verb in transformed.apply[1:]
  )

  def encode(params, state, rng, inputs, **kwargs):
    if example_rngs.is_for_each(rng):
      rng, kwargs['rngs'] = example_rngs.split(rng, 2)
    return read(params, state, rng, inputs, **kwargs)

  def apply(
    params, state, rng, inputs, queries=None, *, is_training=False,
    input_mask=None, query_mask=None,
  ):  # fmt: skip
    rngs = example_rngs.split(rng, 3)
    training = {'is_training': is_training}
    encoded, state = encode(
      params, state, rngs[0], inputs, input_mask=input_mask, **training
    )
    latents, state = process(params, state, rngs[1], encoded, **training)
    if queries is None and config.outputs.is_queried_by_inputs:
      queries = encoded.tokens
    return decode(
      params, state, rngs[2], latents, queries, query_mask=query_mask,
      **training,
    )  # fmt: skip

  # Compiled, initialisation draws parameters without computing any output.
  compiled = jax.jit(transformed.init)

  def init(rng, inputs):
    return compiled(rng, inputs)

  functions = (init, apply, encode, process, decode)
  return PerceiverWithState(*map(_described_with_state, _PROTOCOLS, functions))


_PROTOCOLS = (Init, Apply, Encode, Process, Decode)


def _described(protocol: type, function: Callable) -> Callable:
  """Gives a function the name, signature and docstring of its contract."""
  contract = protocol.__call__
  signature = inspect.signature(contract)
  _, *parameters = signature.parameters.values()
  function.__name__ = function.__qualname__ = protocol.__name__.lower()
  function.__signature__ = signature.replace(parameters=parameters)
  function.__doc__ = contract.__doc__
  return function


def _described_with_state(protocol: type, function: Callable) -> Callable:
  """Does so for a function that also takes and returns running statistics."""
  signature = _described(protocol, function).__signature__
  parameters = list(signature.parameters.values())
  if parameters[0].name == 'params':
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    state = inspect.Parameter('state', kind, annotation=State)
    parameters.insert(1, state)
  function.__signature__ = signature.replace(
    parameters=parameters,
    return_annotation=tuple[signature.return_annotation, State],
  )
  return function


def _functions(config: PerceiverConfig) -> tuple[Callable, tuple]:
  """Returns a function that uses every parameter, and the three verbs."""
  input_modality = config.inputs.make('inputs')
  encoder, processor, decoder = (
    Encoder(config),
    Processor(config),
    Decoder(config),
  )
  output_modality = config.outputs.make('outputs', input_modality)

  def encode(inputs, *, is_training=False, input_mask=None, rngs=None):
    tokens = input_modality(inputs, is_training=is_training, rngs=rngs)
    # Modalities that need full precision have computed in it.
    tokens = tokens.astype(_policy(config.precision).compute_dtype)
    input_mask = config.inputs.join_masks(input_mask, tokens)
    return encoder(tokens, input_mask, is_training=is_training)

  def process(encoded, *, is_training=False):
    return processor(encoded, is_training=is_training)

  def decode(latents, queries=None, *, is_training=False, query_mask=None):
    outputs = decoder(
      latents, output_modality, queries, query_mask, is_training=is_training
    )
    return jax.tree.map(lambda array: array.astype(jnp.float32), outputs)

  def init(inputs):
    encoded = encode(inputs)
    is_queried_by_inputs = config.outputs.is_queried_by_inputs
    queries = encoded.tokens if is_queried_by_inputs else None
    return decode(process(encoded), queries)

  return init, (encode, process, decode)


def _prepared(
  function: Callable, cast: Callable, cast_arg: Callable
) -> Callable:
  """Returns a verb that checks its key and casts its arrays."""

  def call(params, state, rng, arg, *args, is_training=False, **kwargs):
    if is_training and rng is None:
      raise ValueError('rng must be a key if is_training, got None.')
    if example_rngs.is_for_each(rng):
      rng = rng[0]
    params, args = cast((params, args))
    return function(
      params, state, rng, cast_arg(arg), *args, is_training=is_training,
      **kwargs,
    )  # fmt: skip

  return call


def _cast_to_compute(policy: jmp.Policy, tree: Any) -> Any:
  """Casts all but the tables along axes, which bfloat16 would destroy."""

  def is_axis(node):
    return isinstance(node, AxisFeatures)

  def cast(node):
    return node if is_axis(node) else policy.cast_to_compute(node)

  return jax.tree.map(cast, tree, is_leaf=is_axis)


def _policy(precision: Precision) -> jmp.Policy:
  dtype = jnp.dtype(precision.name.lower())
  return jmp.Policy(jnp.float32, dtype, jnp.float32)
