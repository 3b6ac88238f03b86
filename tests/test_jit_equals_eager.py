import jax
import jax.numpy as jnp
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.model import AverageDecoder
from perceiver_jax.nn.blocks import SelfAttendConfig


# The size at which a prototype met wrong numbers of JAX 0.10's CPU compiler.
# This model has not been seen to meet them, with the flag or without.
@pytest.mark.slow
def test_full_sized_cross_attend_is_the_same_under_jit():
  config = presets.perceiver_io_imagenet_fourier()
  config.latent_channels = 16
  config.num_blocks = config.num_self_attends_per_block = 1
  config.self_attend = SelfAttendConfig(num_heads=1)
  config.decoder = AverageDecoder()
  config.outputs.num_classes = 5
  config.inputs.positions.num_bands = 8
  perceiver = perceiver_jax.build(config)
  images = jax.random.normal(jax.random.key(0), (1, 224, 224, 3))
  params = perceiver.init(jax.random.key(1), images)
  # Queries and keys far from zero, so that attention is not uniform.
  params['encoder']['latents'] *= 50.0
  eager = perceiver.encode(params, None, images).latents
  jitted = jax.jit(perceiver.encode)(params, None, images).latents
  np.testing.assert_allclose(jitted, eager, atol=1e-5 * jnp.std(eager))
