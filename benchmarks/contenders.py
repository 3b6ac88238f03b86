"""What the benchmarks of speed compare: ways to train a model on a batch.

`train_step.py` says what each is; those in PyTorch are in `peers.py`.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

import perceiver_jax
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.cross_attention import Algorithm
from perceiver_jax.nn.repeat import Remat

LEARNING_RATE = 1e-4


class Contender(Protocol):
  """One way to train a model on one batch.

  Attributes:
    costs: what it took to get ready, and to run where that is known before.
  """

  costs: dict[str, float]

  def forward(self) -> np.ndarray:
    """Returns the logits of the batch."""

  def step(self) -> None:
    """Updates the parameters once, and waits for it."""

  def moments(self) -> dict[str, np.ndarray] | None:
    """Returns AdamW's first moments, by our names; None if they have none."""


class OurStep:
  """Training by this package, as a config says.

  Args:
    config: the model.
    params: its parameters.
    batch: images and labels.
    as_model: makes of the parameters what the model takes.
  """

  def __init__(
    self,
    config: PerceiverConfig,
    params: Any,
    batch: dict[str, np.ndarray],
    as_model: Callable[[Any], Any] = lambda params: params,
  ):
    perceiver = perceiver_jax.build_with_state(config)
    optimizer = optax.adamw(LEARNING_RATE)
    # Dropout would need a key; the presets have none.
    rng = jax.random.key(0)

    def logits(params, model_state, images):
      return perceiver.apply(as_model(params), model_state, None, images)[0]

    def loss(params, model_state, batch):
      outputs, model_state = perceiver.apply(
        as_model(params), model_state, rng, batch['image'], is_training=True
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(
        outputs, batch['label']
      )
      return losses.mean(), model_state

    def step(state, batch):
      params, model_state, moments = state
      grads, model_state = jax.grad(loss, has_aux=True)(
        params, model_state, batch
      )
      updates, moments = optimizer.update(grads, moments, params)
      return optax.apply_updates(params, updates), model_state, moments

    _, shapes = _shapes(config)
    model_state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    # A copy, because each step gives its state away.
    params = jax.tree.map(jnp.array, params)
    self._state = params, model_state, optimizer.init(params)
    self._batch = jax.tree.map(jnp.asarray, batch)
    self._logits = jax.jit(logits)
    start = time.perf_counter()
    traced = jax.jit(step, donate_argnums=0).trace(self._state, self._batch)
    traced_at = time.perf_counter()
    self._step = traced.lower().compile()
    self.costs = {
      'trace_seconds': traced_at - start,
      'compile_seconds': time.perf_counter() - traced_at,
      'program_bytes': self._step.memory_analysis().temp_size_in_bytes,
    }

  def forward(self) -> np.ndarray:
    return np.asarray(self._logits(*self._state[:2], self._batch['image']))

  def step(self) -> None:
    self._state = jax.block_until_ready(self._step(self._state, self._batch))

  def moments(self) -> dict[str, np.ndarray]:
    _, _, moments = self._state
    return flat(moments[0].mu)


def ours(config: PerceiverConfig, params: Any, batch: Any) -> OurStep:
  """Returns this package as it is."""
  return OurStep(config, params, batch)


def ours_remat(config: PerceiverConfig, params: Any, batch: Any) -> OurStep:
  """Returns this package where memory is short."""
  return _with_remat(Remat.ALL, config, params, batch)


def ours_cheap(config: PerceiverConfig, params: Any, batch: Any) -> OurStep:
  """Returns this package where what is cheap is computed again."""
  return _with_remat(Remat.CHEAP, config, params, batch)


def _with_remat(
  remat: Remat, config: PerceiverConfig, params: Any, batch: Any
) -> OurStep:
  config = config.copy()
  config.self_attend.remat = config.cross_attend.remat = remat
  return OurStep(config, params, batch)


def plain(config: PerceiverConfig, params: Any, batch: Any) -> OurStep:
  """Returns the published algorithm: nothing is scanned, absorbed or kept."""
  config = config.copy()
  config.unroll = True
  config.cross_attend.algorithm = Algorithm.PLAIN
  if isinstance(config.decoder, AttentionDecoder):
    config.decoder.cross_attend.algorithm = Algorithm.PLAIN
    config.decoder.decode_at_once()
  shares = config.share_cross_attends and config.num_cross_attends > 1
  # Unshared cross-attends of equal weights: each builds its keys and values.
  config.share_cross_attends = False
  shared = 'processor/cross_attend/'

  def unshare(params):
    return {
      module.replace(shared, f'processor/cross_attend_{i}/'): leaves
      for module, leaves in params.items()
      for i in range(
        config.num_cross_attends - 1 if module.startswith(shared) else 1
      )
    }

  return OurStep(
    config, params, batch, unshare if shares else lambda params: params
  )


MAKERS = {
  'plain': plain,
  'ours': ours,
  'ours_cheap': ours_cheap,
  'ours_remat': ours_remat,
}


def random_params(config: PerceiverConfig) -> Any:
  """Returns parameters that keep activations of about unit size."""
  rng = np.random.default_rng(0)
  shapes, _ = _shapes(config)

  def draw(path, leaf):
    match path[-1].key:
      case 'scale':
        return np.ones(leaf.shape, np.float32)
      case 'w':
        size = leaf.shape[0] ** -0.5
      case _:
        size = 0.02
    return (size * rng.normal(size=leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _shapes(config: PerceiverConfig) -> tuple[Any, Any]:
  """Returns the shapes of parameters and of running statistics."""
  return jax.eval_shape(
    perceiver_jax.build_with_state(config).init,
    jax.random.key(0),
    config.inputs.example(),
  )


def flat(tree: Any) -> dict[str, np.ndarray]:
  """Returns copies of the leaves by their paths."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  # Copies: the next step may write where these lie.
  return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}
