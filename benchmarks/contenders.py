"""What the benchmarks of speed compare: ways to train a model on a batch.

`ours` and `plain` are this package, `huggingface` and `lucidrains` PyTorch;
`train_step.py` says what each is.
"""

import os
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
from perceiver_jax.weights.huggingface import from_huggingface, to_huggingface

_LEARNING_RATE = 1e-4


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
    optimizer = optax.adamw(_LEARNING_RATE)
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
    images = self._batch['image']
    self._logits = jax.jit(logits).lower(*self._state[:2], images).compile()
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
    return _flat(moments[0].mu)


class TorchStep:
  """Training of a model in PyTorch.

  Args:
    model: it.
    batch: images and labels.
    logits: what of the model's answer to images is logits.
    rename: turns a state dict of moments into our tree; None if it cannot.
  """

  def __init__(
    self,
    model: Any,
    batch: dict[str, np.ndarray],
    logits: Callable[[Any, Any], Any],
    rename: Callable[[dict[str, np.ndarray]], Any] | None,
  ):
    import torch

    torch.set_num_threads(os.cpu_count())
    self._torch = torch
    self._model = model.eval()  # Without dropout, as the others.
    self._logits = logits
    self._rename = rename
    self._images = torch.from_numpy(batch['image'])
    self._labels = torch.from_numpy(batch['label'])
    self._optimizer = torch.optim.AdamW(
      model.parameters(), _LEARNING_RATE, weight_decay=1e-4
    )
    self.costs = {}

  def forward(self) -> np.ndarray:
    with self._torch.no_grad():
      return self._logits(self._model, self._images).numpy()

  def step(self) -> None:
    self._optimizer.zero_grad(set_to_none=True)
    logits = self._logits(self._model, self._images)
    self._torch.nn.functional.cross_entropy(logits, self._labels).backward()
    self._optimizer.step()

  def moments(self) -> dict[str, np.ndarray] | None:
    if self._rename is None:
      return None
    moments = {
      name: self._optimizer.state[parameter]['exp_avg'].numpy()
      for name, parameter in self._model.named_parameters()
    }
    buffers = {
      name: array.numpy() for name, array in self._model.named_buffers()
    }
    return _flat(self._rename(moments | buffers))


def ours(config: PerceiverConfig, params: Any, batch: Any) -> OurStep:
  """Returns this package as it is."""
  return OurStep(config, params, batch)


def ours_remat(config: PerceiverConfig, params: Any, batch: Any) -> OurStep:
  """Returns this package where memory is short."""
  config = config.copy()
  config.self_attend.remat = config.cross_attend.remat = Remat.ALL
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


def huggingface(config: PerceiverConfig, params: Any, batch: Any) -> TorchStep:
  """Returns Hugging Face's model with the same weights."""
  import torch
  import transformers

  theirs = transformers.PerceiverForImageClassificationFourier(
    transformers.PerceiverConfig(
      num_latents=config.num_latents,
      d_latents=config.latent_channels,
      num_blocks=config.num_blocks,
      num_self_attends_per_block=config.num_self_attends_per_block,
      num_self_attention_heads=config.self_attend.num_heads,
      num_cross_attention_heads=config.cross_attend.num_heads,
      num_labels=config.outputs.num_classes,
    )
  )
  state_dict = to_huggingface(params, {}, config)
  theirs.load_state_dict(
    {name: torch.tensor(array) for name, array in state_dict.items()}
  )
  return TorchStep(
    theirs,
    batch,
    lambda model, images: model(inputs=images.permute(0, 3, 1, 2)).logits,
    lambda moments: from_huggingface(moments, config)[0],
  )


def lucidrains(config: PerceiverConfig, params: Any, batch: Any) -> TorchStep:
  """Returns the model of `perceiver-pytorch` that is nearest."""
  del params  # Of other shapes.
  import perceiver_pytorch
  import torch

  torch.manual_seed(0)
  heads = config.self_attend.num_heads
  theirs = perceiver_pytorch.Perceiver(
    num_freq_bands=config.inputs.positions.num_bands,
    depth=config.num_cross_attends,
    max_freq=224,
    input_channels=config.inputs.image_channels,
    num_latents=config.num_latents,
    latent_dim=config.latent_channels,
    cross_heads=config.cross_attend.num_heads,
    cross_dim_head=config.inputs.num_channels,
    latent_heads=heads,
    latent_dim_head=config.latent_channels // heads,
    num_classes=config.outputs.num_classes,
    weight_tie_layers=True,
    self_per_cross_attn=config.num_self_attends_per_block
    * config.blocks_per_cross_attend,
  )
  return TorchStep(theirs, batch, lambda model, images: model(images), None)


MAKERS = {
  'plain': plain,
  'ours': ours,
  'ours_remat': ours_remat,
  'huggingface': huggingface,
  'lucidrains': lucidrains,
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


def _flat(tree: Any) -> dict[str, np.ndarray]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  # Copies: the next step may write where these lie.
  return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}
