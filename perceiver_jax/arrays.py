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

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

AnyArray = jax.Array | np.ndarray

Images = Num[AnyArray, 'B Y X C']
Videos = Num[AnyArray, 'B T Y X C']
Audio = Num[AnyArray, 'B S C']
Latents = Float[Array, 'B N D']
InputMask = Bool[AnyArray, 'B M']
QueryMask = Bool[AnyArray, 'B O']
Indices = Int[AnyArray, '*O']
Labels = Int[AnyArray, 'B']
Logits = Float[Array, 'B V']

DEVICE_AXIS = 'devices'
"""The axis name of devices that train together, in `lax.pmean` and pmap."""

Rng = jax.Array
"""A key of `jax.random`: `jax.random.key(0)` or `jax.random.PRNGKey(0)`."""

Params = Mapping[str, Mapping[str, Any]]
"""Parameters: {module path: {name: array}}, as Haiku keeps them."""

State = Mapping[str, Mapping[str, Any]]
"""Running statistics of batch normalisation, laid out like `Params`."""
