"""Compares whole training steps: this package, its plain path, and peers.

  python benchmarks/train_step.py --models perceiver_io --json=out.json

A step is the loss, all gradients and an update by AdamW, in float32 and without
dropout. The contenders run in this one process on all cores, in turns:

- `plain`: the published algorithm in this package: every layer written out,
  keys and values of all inputs built for each cross-attend;
- `ours`: what this package does by itself;
- `huggingface`: the same model and weights in PyTorch (Perceiver IO only);
- `lucidrains`: the nearest that `perceiver-pytorch` has (original Perceiver
  only): gated MLPs four times as wide, so its numbers are others.

Times are medians, on the clock, with ratios to the first contender. Memory is
by how much the process grows during a step, and for JAX also what the compiled
step allocates besides arguments and results. Errors are of the logits and,
after a step, of the first moment of AdamW, which is the gradient times a
constant: the largest difference from the first contender over the largest
number, in the worst array. The peers need the extra `[peers]`.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from perceiver_jax.xla_flags import set_cpu_flags

set_cpu_flags()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import perceiver_jax  # noqa: E402
from perceiver_jax import presets  # noqa: E402
from perceiver_jax.model import (  # noqa: E402
  AttentionDecoder,
  PerceiverConfig,
)
from perceiver_jax.nn.cross_attention import Algorithm  # noqa: E402
from perceiver_jax.weights.huggingface import (  # noqa: E402
  as_huggingface,
  from_huggingface,
  to_huggingface,
)

MODELS = {
  'perceiver': presets.perceiver_imagenet_fourier,
  # With what Hugging Face's code changes, so that all compute the same.
  'perceiver_io': lambda: as_huggingface(
    presets.perceiver_io_imagenet_fourier()
  ),
}
_LEARNING_RATE = 1e-4
_PAGE = os.sysconf('SC_PAGE_SIZE')


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
    apply = perceiver_jax.build(config).apply
    optimizer = optax.adamw(_LEARNING_RATE)

    def logits(params, images):
      return apply(as_model(params), None, images)

    def loss(params, batch):
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits(params, batch['image']), batch['label']
      )
      return losses.mean()

    def step(params, optimizer_state, batch):
      grads = jax.grad(loss)(params, batch)
      updates, state = optimizer.update(grads, optimizer_state, params)
      return optax.apply_updates(params, updates), state

    # A copy, because each step gives its arguments away.
    self._params = jax.tree.map(jnp.array, params)
    self._state = optimizer.init(self._params)
    self._batch = jax.tree.map(jnp.asarray, batch)
    self._logits = jax.jit(logits).lower(params, batch['image']).compile()
    start = time.perf_counter()
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(
      self._params, self._state, self._batch
    )
    traced_at = time.perf_counter()
    self._step = traced.lower().compile()
    self.costs = {
      'trace_seconds': traced_at - start,
      'compile_seconds': time.perf_counter() - traced_at,
      'program_bytes': self._step.memory_analysis().temp_size_in_bytes,
    }

  def forward(self) -> np.ndarray:
    return np.asarray(self._logits(self._params, self._batch['image']))

  def step(self) -> None:
    self._params, self._state = jax.block_until_ready(
      self._step(self._params, self._state, self._batch)
    )

  def moments(self) -> dict[str, np.ndarray]:
    return _flat(self._state[0].mu)


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


def model_config(
  name: str, num_blocks: int | None, num_latents: int | None
) -> PerceiverConfig:
  """Returns a published model, or one like it with other sizes."""
  config = MODELS[name]()
  if num_blocks is not None:
    config.num_blocks = num_blocks
    config.num_cross_attends = min(config.num_cross_attends, num_blocks)
  if num_latents is not None:
    config.num_latents = num_latents
  config.validate()
  return config


def ours(config: PerceiverConfig, params: Any, batch: Any) -> OurStep:
  """Returns this package as it is."""
  return OurStep(config, params, batch)


def plain(config: PerceiverConfig, params: Any, batch: Any) -> OurStep:
  """Returns the published algorithm: nothing is scanned, absorbed or kept."""
  config = config.copy()
  config.unroll = True
  config.cross_attend.algorithm = Algorithm.PLAIN
  if isinstance(config.decoder, AttentionDecoder):
    config.decoder.cross_attend.algorithm = Algorithm.PLAIN
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
  'huggingface': huggingface,
  'lucidrains': lucidrains,
}


def random_params(config: PerceiverConfig) -> Any:
  """Returns parameters that keep activations of about unit size."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    perceiver_jax.build(config).init,
    jax.random.key(0),
    config.inputs.example(),
  )

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


def compare(
  name: str,
  contenders: list[str],
  config: PerceiverConfig,
  batch: dict[str, np.ndarray],
  repeats: int,
) -> Iterator[dict[str, Any]]:
  """Runs contenders in turns and yields a row of results for each.

  Args:
    name: of the model.
    contenders: names in `MAKERS`; what the others are compared with first.
    config: the model.
    batch: images `[B, 224, 224, 3]` and labels `[B]`.
    repeats: how often each runs, after once to warm up.
  """
  params = random_params(config)
  runners: dict[str, Contender] = {}
  for contender in contenders:
    print(f'preparing {contender} ...', flush=True)
    runners[contender] = MAKERS[contender](config, params, batch)
  logits = {key: runner.forward() for key, runner in runners.items()}
  growths = {key: _growth(runner.step) for key, runner in runners.items()}
  moments = {key: runner.moments() for key, runner in runners.items()}
  times = {key: ([], []) for key in runners}
  for _ in range(repeats):
    for key, runner in runners.items():
      for function, seconds in zip(
        (runner.forward, runner.step), times[key], strict=True
      ):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
  for key, runner in runners.items():
    comparable = moments[key] is not None
    yield {
      'model': name,
      'contender': key,
      'batch_size': len(batch['label']),
      'forward_seconds': statistics.median(times[key][0]),
      'step_seconds': statistics.median(times[key][1]),
      'grown_bytes': growths[key],
      'logits_error': _error(logits[contenders[0]], logits[key])
      if comparable
      else None,
      'gradient_error': _tree_error(moments[contenders[0]], moments[key])
      if comparable
      else None,
    } | runner.costs


def _growth(function: Callable[[], Any]) -> int:
  """Returns by how many bytes the process grows at most during a call."""
  start = peak = _resident()
  ended = threading.Event()

  def watch():
    nonlocal peak
    while not ended.wait(0.002):
      peak = max(peak, _resident())

  thread = threading.Thread(target=watch)
  thread.start()
  try:
    function()
  finally:
    ended.set()
    thread.join()
  return peak - start


def _resident() -> int:
  """Returns the bytes of this process in memory; Linux only."""
  return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * _PAGE


def _flat(tree: Any) -> dict[str, np.ndarray]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  # Copies: the next step may write where these lie.
  return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def _error(expected: np.ndarray, actual: np.ndarray) -> float:
  return float(np.max(np.abs(expected - actual)) / np.max(np.abs(expected)))


def _tree_error(expected: dict, actual: dict) -> float:
  return max(
    _error(array, actual[key])
    for key, array in expected.items()
    # A softmax does not see a shift of its logits: the gradient is zero.
    if not key.endswith("key']['b']") and array.any()
  )


def table(rows: list[dict[str, Any]]) -> str:
  """Returns the rows as Markdown, with ratios to the first of each model."""
  lines = [
    '| model | contender | forward (s) | step (s) | grows by (MiB) '
    '| program (MiB) | trace (s) | compile (s) | error of logits '
    '| of gradients |',
    '|---|---|---|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    base = next(r for r in rows if r['model'] == row['model'])
    cells = [row['model'], row['contender']]
    for field, unit, digits in (
      ('forward_seconds', 1, 2),
      ('step_seconds', 1, 2),
      ('grown_bytes', 2**20, 0),
      ('program_bytes', 2**20, 0),
      ('trace_seconds', 1, 1),
      ('compile_seconds', 1, 1),
    ):
      value, other = row.get(field), base.get(field)
      cells.append(
        ''
        if value is None
        else f'{value / unit:,.{digits}f} (x {value / other:.2f})'
        if other
        else f'{value / unit:,.{digits}f}'
      )
    for field in ('logits_error', 'gradient_error'):
      cells.append('' if row[field] is None else f'{row[field]:.1e}')
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def environment() -> dict[str, Any]:
  """Returns what a time depends on besides the program."""
  return {
    'python': platform.python_version(),
    'jax': jax.__version__,
    'device': str(jax.devices()[0].device_kind),
    'cores': os.cpu_count(),
    'load_average': os.getloadavg()[0],
  }


def main() -> None:
  """Runs what the command line names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--models', nargs='+', default=list(MODELS), choices=MODELS
  )
  parser.add_argument(
    '--contenders', nargs='+', default=list(MAKERS), choices=MAKERS
  )
  parser.add_argument('--batch_size', type=int, default=1)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--num_blocks', type=int, help='instead of all')
  parser.add_argument('--num_latents', type=int, help='instead of all')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--json', type=pathlib.Path, help='file of all results')
  options = parser.parse_args()
  rng = np.random.default_rng(1)
  size = (options.batch_size, options.image_size, options.image_size, 3)
  batch = {
    'image': rng.normal(size=size).astype(np.float32),
    'label': rng.integers(0, 1000, options.batch_size),
  }
  rows = []
  for name in options.models:
    peer = {'perceiver': 'lucidrains', 'perceiver_io': 'huggingface'}[name]
    contenders = [
      contender
      for contender in options.contenders
      if contender in ('plain', 'ours', peer)
    ]
    config = model_config(name, options.num_blocks, options.num_latents)
    rows += compare(name, contenders, config, batch, options.repeats)
    print(table(rows), flush=True)
  if options.json:
    results = {'environment': environment(), 'rows': rows}
    options.json.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  main()
