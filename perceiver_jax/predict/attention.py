"""Where a model of images looks."""

import functools
from collections.abc import Callable, Sequence

import haiku as hk
import jax
import numpy as np
from jaxtyping import Float

from perceiver_jax.attention_maps import attention_maps
from perceiver_jax.config import from_json
from perceiver_jax.modalities.base import InputConfig
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.predict.classification import crop_images
from perceiver_jax.predict.images import IMAGENET, Colours, normalised
from perceiver_jax.weights.native import Pretrained


def image_attention(
  pretrained: Pretrained,
  image: np.ndarray,
  latents: Sequence[int],
  *,
  size: tuple[int, int] | None = None,
  colours: Colours = IMAGENET,
) -> list[Float[np.ndarray, 'latents y x']]:
  """Returns where latents look on an image, for each cross-attend.

  Args:
    pretrained: a model of images whose tokens stand on a grid.
    image: uint8 [Y, X, C], of any size; cropped as for `classify`.
    latents: which ones.
    size: rows and columns that the image is resized to; None: those that the
      model was made for.
    colours: statistics to normalise pixels with.

  Returns:
    For each cross-attend a map for each latent, the mean over heads, on the
    grid of tokens; a map sums to 1.

  Raises:
    ValueError: the model takes no images, its tokens stand on no grid, or it
      has no such latent.
  """
  config = pretrained.config
  (crop,) = crop_images(config, [image], size)
  if config.inputs.permutation_seed is not None:
    raise ValueError(
      'permutation_seed must be None for attention to be shown on an image, '
      f'got {config.inputs.permutation_seed}.'
    )
  check_latents(config, latents)
  images = normalised(crop, colours)[None]
  grid = token_axes(config.inputs, crop.shape)
  maps = _compiled(config.to_json())
  found = maps(
    pretrained.params, pretrained.state, images, latents=tuple(latents)
  )
  return [
    np.asarray(weights[0].mean(axis=0)).reshape(len(latents), *grid)
    for weights in found
  ]


@functools.lru_cache(maxsize=8)
def _compiled(text: str) -> Callable[..., tuple[jax.Array, ...]]:
  """Returns the maps of inputs of a model, jitted; see `compiled`."""
  maps = attention_maps(from_json(text))

  def of_inputs(params, state, images, *, latents):
    # The maps of outputs, not returned, are not computed.
    return maps(params, images, state=state, latents=latents).inputs

  return jax.jit(of_inputs, static_argnames='latents')


def check_latents(config: PerceiverConfig, latents: Sequence[int]) -> None:
  """Checks that a model has these latents, one at least.

  Raises:
    ValueError: it has not.
  """
  wrong = [i for i in latents if not 0 <= i < config.num_latents]
  if wrong or not len(latents):
    raise ValueError(
      f'latents must be one or more from 0 to {config.num_latents - 1}, '
      f'got {list(latents)}.'
    )


def token_axes(config: InputConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the axes of the grid of tokens of an input.

  Args:
    config: of the input.
    shape: of one example of it.
  """
  transformed = hk.transform_with_state(
    lambda inputs: config.make('inputs')(inputs, is_training=False)
  )

  def tokens(inputs):
    weights = transformed.init(jax.random.key(0), inputs)
    return transformed.apply(*weights, None, inputs)[0]

  inputs = jax.ShapeDtypeStruct((1, *shape), np.float32)
  return jax.eval_shape(tokens, inputs).axes
