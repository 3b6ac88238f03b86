"""The letters and array types that every signature in this package uses.

Letters follow the papers (arXiv 2103.03206, 2107.14795):

  B  batch                     O  output queries
  M  input tokens              E  channels of an output query
  C  channels of an input      H  attention heads
  N  latents                   F  features per head
  D  channels of a latent      V  classes or vocabulary
  T Y X  axes of a video: time, rows, columns (an image has Y X)
  S  samples of audio

Nouns: *inputs* come in, a modality turns them into *tokens*, the *latents* read
the tokens, *queries* read the latents, and a modality turns what they read into
*outputs*. Verbs: *encode* (inputs to latents), *process* (latents to latents),
*decode* (latents to outputs).

A mask is boolean and True means "use this element".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

AnyArray = jax.Array | np.ndarray

Images = Num[AnyArray, 'B Y X C']
Videos = Num[AnyArray, 'B T Y X C']
Audio = Num[AnyArray, 'B S C']
Latents = Float[AnyArray, 'B N D']
InputMask = Bool[AnyArray, 'B M']
QueryMask = Bool[AnyArray, 'B O']
Indices = Int[AnyArray, '*O']
Logits = Float[Array, 'B V']

Masks = Mapping[str, Bool[AnyArray, 'B _'] | None]
"""A mask for each of several modalities, by name; None: use everything."""

DEVICE_AXIS = 'devices'
"""The axis name of devices that train together, in `lax.pmean` and pmap."""

Rng = jax.Array
"""A key of `jax.random`: `jax.random.key(0)` or `jax.random.PRNGKey(0)`."""

ExampleRngs = Key[Array, 'B']
"""A key of `jax.random.key` for each example of a batch."""

Params = Mapping[str, Mapping[str, Any]]
"""Parameters: {module path: {name: array}}, as Haiku keeps them."""

State = Mapping[str, Mapping[str, Any]]
"""Running statistics of batch normalisation, laid out like `Params`."""

_T = TypeVar('_T')


def register_pytree(cls: type[_T]) -> type[_T]:
  """Registers a frozen dataclass as a node of JAX's trees.

  Unlike `jax.tree_util.register_dataclass` it rebuilds objects without the
  constructor, since JAX puts anything in the place of arrays: there are no
  shapes to check then.

  Args:
    cls: its fields are children, but for those with the metadata
      `{'static': True}`, which must be hashable.
  """
  fields = dataclasses.fields(cls)
  static = [f.name for f in fields if f.metadata.get('static')]
  children = [f.name for f in fields if f.name not in static]

  def flatten(node):
    keys = map(jax.tree_util.GetAttrKey, children)
    values = [getattr(node, name) for name in children]
    constants = tuple(getattr(node, name) for name in static)
    return list(zip(keys, values, strict=True)), constants

  def unflatten(constants, values):
    node = object.__new__(cls)
    for names, items in [(children, values), (static, constants)]:
      for name, item in zip(names, items, strict=True):
        object.__setattr__(node, name, item)
    return node

  jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
  return cls
