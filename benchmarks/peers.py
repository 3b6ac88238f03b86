"""What the benchmarks of speed compare this package with, in PyTorch.

They need the extra `[peers]`. `train_step.py` says what each is.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import perceiver_pytorch
import torch
import transformers
from contenders import LEARNING_RATE, flat

from perceiver_jax.model import PerceiverConfig
from perceiver_jax.weights.huggingface import from_huggingface, to_huggingface


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
    model: torch.nn.Module,
    batch: dict[str, np.ndarray],
    logits: Callable[[Any, Any], Any],
    rename: Callable[[dict[str, np.ndarray]], Any] | None,
  ):
    torch.set_num_threads(os.cpu_count())
    self._model = model.eval()  # Without dropout, as the others.
    self._logits = logits
    self._rename = rename
    self._images = torch.from_numpy(batch['image'])
    self._labels = torch.from_numpy(batch['label'])
    self._optimizer = torch.optim.AdamW(
      model.parameters(), LEARNING_RATE, weight_decay=1e-4
    )
    self.costs = {}

  def forward(self) -> np.ndarray:
    with torch.no_grad():
      return self._logits(self._model, self._images).numpy()

  def step(self) -> None:
    self._optimizer.zero_grad(set_to_none=True)
    logits = self._logits(self._model, self._images)
    torch.nn.functional.cross_entropy(logits, self._labels).backward()
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
    return flat(self._rename(moments | buffers))


def huggingface(config: PerceiverConfig, params: Any, batch: Any) -> TorchStep:
  """Returns Hugging Face's model with the same weights."""
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
  """Returns the model of `perceiver-pytorch` that is nearest, as it is."""
  del params  # Of other shapes.
  model = _nearest_of_lucidrains(config)
  return TorchStep(model, batch, lambda model, images: model(images), None)


def lucidrains_published(
  config: PerceiverConfig, params: Any, batch: Any
) -> TorchStep:
  """Returns the same with what differs put right, and the same weights."""
  model = _nearest_of_lucidrains(config)
  _make_as_published(model, config)

  def to_theirs(params):
    return dict(_named_as_lucidrains(params, config))

  arrays = to_theirs(params)
  parameters = dict(model.named_parameters())
  assert parameters.keys() == arrays.keys()
  with torch.no_grad():
    for name, parameter in parameters.items():
      parameter.copy_(torch.from_numpy(np.array(arrays[name])))
  # It only moves numbers, so that its transpose moves them back.
  to_ours = jax.linear_transpose(to_theirs, params)
  return TorchStep(
    model,
    batch,
    lambda model, images: model(images),
    lambda moments: to_ours(jax.tree.map(jnp.asarray, moments))[0],
  )


def _nearest_of_lucidrains(config: PerceiverConfig) -> torch.nn.Module:
  torch.manual_seed(0)
  heads = config.self_attend.num_heads
  return perceiver_pytorch.Perceiver(
    num_freq_bands=config.inputs.positions.num_bands,
    depth=config.num_cross_attends,
    max_freq=config.inputs.positions.max_resolution[0],
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


def _make_as_published(model: torch.nn.Module, config: PerceiverConfig) -> None:
  """Puts right what `train_step.py` says that it has otherwise."""
  shared = list(model.layers[0].self_attns)[: config.num_self_attends_per_block]
  latent_transformer = torch.nn.ModuleList(
    shared * config.blocks_per_cross_attend
  )
  layers = list(dict.fromkeys(model.layers))
  for layer in layers:
    layer.self_attns = latent_transformer
  for attention, mlp in [
    *((layer.cross_attn, layer.cross_ff) for layer in layers),
    *shared,
  ]:
    for name in ('to_q', 'to_kv'):
      old = getattr(attention.fn, name)
      new = torch.nn.Linear(old.in_features, old.out_features)
      setattr(attention.fn, name, new)
    width = config.latent_channels
    mlp.fn = torch.nn.Sequential(
      torch.nn.Linear(width, width),
      torch.nn.GELU(approximate='tanh'),
      torch.nn.Linear(width, width),
    )
  model.to_logits[1] = torch.nn.Identity()  # No norm after the mean.


def _named_as_lucidrains(
  params: Any, config: PerceiverConfig
) -> Iterator[tuple[str, Any]]:
  """Yields our parameters by the names and in the layouts of theirs."""
  yield 'latents', params['encoder']['latents']
  yield from _linear('to_logits.2', params['outputs/logits'])
  order = _channels_in_their_order(config)
  crosses = ['encoder/cross_attend', 'processor/cross_attend']
  for i, ours in enumerate(crosses[: config.num_cross_attends]):
    theirs = f'layers.{i}.cross_'
    block = f'layers.{i}.cross_attn', f'layers.{i}.cross_ff'
    yield from _block(params, ours, *block, f'{ours}/query_norm', order)
    norm = params[f'{ours}/input_norm']
    yield f'{theirs}attn.norm_context.weight', norm['scale'][order]
    yield f'{theirs}attn.norm_context.bias', norm['offset'][order]
  for i in range(config.num_self_attends_per_block):
    ours = f'processor/self_attend_{i}'
    theirs = f'layers.0.self_attns.{i}'
    block = f'{theirs}.0', f'{theirs}.1'
    yield from _block(params, ours, *block, f'{ours}/norm', slice(None))


def _block(
  params: Any, ours: str, attention: str, mlp: str, norm: str, order: Any
) -> Iterator[tuple[str, Any]]:
  """Yields the parameters of attention and MLP, with their first norms."""
  query, key, value, output = (
    params[f'{ours}/attention/{name}']
    for name in ('query', 'key', 'value', 'output')
  )
  keys_and_values = {
    'w': jnp.concatenate([key['w'][order], value['w'][order]], axis=1),
    'b': jnp.concatenate([key['b'], value['b']]),
  }
  yield from _norm(f'{attention}.norm', params[norm])
  yield from _linear(f'{attention}.fn.to_q', query)
  yield from _linear(f'{attention}.fn.to_kv', keys_and_values)
  yield from _linear(f'{attention}.fn.to_out', output)
  yield from _norm(f'{mlp}.norm', params[f'{ours}/mlp_norm'])
  yield from _linear(f'{mlp}.fn.0', params[f'{ours}/mlp_hidden'])
  yield from _linear(f'{mlp}.fn.2', params[f'{ours}/mlp_output'])


def _linear(name: str, leaves: Any) -> Iterator[tuple[str, Any]]:
  yield f'{name}.weight', leaves['w'].T
  yield f'{name}.bias', leaves['b']


def _norm(name: str, leaves: Any) -> Iterator[tuple[str, Any]]:
  yield f'{name}.weight', leaves['scale']
  yield f'{name}.bias', leaves['offset']


def _channels_in_their_order(config: PerceiverConfig) -> np.ndarray:
  """Returns where their channels of inputs are among ours.

  Both have colours first. Then ours are coordinates, sines, cosines, as in the
  published code, theirs sines, cosines, coordinates; both for each axis.
  """
  colours, bands = (
    config.inputs.image_channels,
    config.inputs.positions.num_bands,
  )
  order = list(range(colours))
  for axis in range(2):
    coordinate = colours + axis
    sines = colours + 2 + axis * bands
    cosines = sines + 2 * bands
    order += [*range(sines, sines + bands), *range(cosines, cosines + bands)]
    order.append(coordinate)
  return np.array(order)


MAKERS = {
  'huggingface': huggingface,
  'lucidrains': lucidrains,
  'lucidrains_published': lucidrains_published,
}
