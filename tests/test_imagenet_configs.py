"""The configs of ImageNet are the rows of the papers' tables."""

import config_files
import jax
import jax.numpy as jnp
import pytest

import perceiver_jax

_IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)


# Source: arXiv 2103.03206, table 6, in billions and millions. For one
# cross-attend at the start it prints 41.1 million, a typo: the model is the
# interleaved one.
@pytest.mark.parametrize(
  ('count', 'flops', 'params'),
  [(1, 404.3, 42.1), (2, 447.6, 44.9), (4, 534.1, 44.9), (8, 707.2, 44.9)],
)
@pytest.mark.parametrize('placement', ['start', 'interleaved'])
def test_rows_of_table_6_have_their_size(placement, count, flops, params):
  name = f'{placement}_{count}'.replace('interleaved_8', '')
  model = config_files.load('imagenet_perceiver').get_config(name).model
  assert perceiver_jax.count_params(model) / 1e6 == pytest.approx(
    params, abs=0.05
  )
  counted = perceiver_jax.count_flops(model, _IMAGE) / 1e9
  assert counted == pytest.approx(flops, rel=0.002)
