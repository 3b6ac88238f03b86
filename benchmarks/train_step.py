"""Compares whole training steps: this package, its plain path, and peers.

  python benchmarks/train_step.py --models perceiver_io --json=out.json

A step is the loss, all gradients and an update by AdamW, in float32 and without
dropout. The contenders run in this one process on all cores, in turns:

- `plain`: the published algorithm in this package: every layer written out,
  keys and values of all inputs built for each cross-attend;
- `ours`: what this package does by itself;
- `ours_cheap`: the same, which computes norms, activation functions and
  attention weights again in the backward pass;
- `ours_remat`: the same, which stores the inputs of each block alone and
  computes the rest again in the backward pass;
- `huggingface`: the same model and weights in PyTorch (Perceiver IO only);
- `lucidrains`: the nearest that `perceiver-pytorch` has (original Perceiver
  only). Its MLPs are gated and four times as wide, so that a self-attend takes
  2.7 times the parameters; the first latent transformer has its own weights;
  queries, keys and values have no bias; the mean is normalised. Its numbers
  are others;
- `lucidrains_published`: the same with these four things as published, and
  the same weights; its attention, norms and positions stay.

Times are medians, on the clock, with ratios to the first contender. Memory is
what the compiled step allocates besides arguments and results; for that of
PyTorch see `step_memory.py`. Errors are of the logits and, after a step, of the
first moment of AdamW, which is the gradient times a constant: the largest
difference from the first contender over the largest number, in the worst array.
The peers need the extra `[peers]`.
"""

import argparse
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import Any

from perceiver_jax.xla_flags import set_cpu_flags

set_cpu_flags()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from contenders import MAKERS, Contender, random_params  # noqa: E402
from timing import median_seconds  # noqa: E402

from perceiver_jax import presets  # noqa: E402
from perceiver_jax.model import PerceiverConfig  # noqa: E402
from perceiver_jax.weights.huggingface import as_huggingface  # noqa: E402

MODELS = {
  'perceiver': presets.perceiver_imagenet_fourier,
  # With what Hugging Face's code changes, so that all compute the same.
  'perceiver_io': lambda: as_huggingface(
    presets.perceiver_io_imagenet_fourier()
  ),
}
PEERS = {
  'perceiver': ('lucidrains', 'lucidrains_published'),
  'perceiver_io': ('huggingface',),
}


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


def contenders_of(model: str) -> tuple[str, ...]:
  """Returns the names of the contenders that have a model."""
  return (*MAKERS, *PEERS[model])


def maker(contender: str) -> Callable[..., Contender]:
  """Returns what makes a contender of config, parameters and batch."""
  if contender in MAKERS:
    return MAKERS[contender]
  import peers  # Of the extra that others do without.

  return peers.MAKERS[contender]


def random_batch(batch_size: int, image_size: int) -> dict[str, np.ndarray]:
  """Returns images `[B, image_size, image_size, 3]` and labels `[B]`."""
  rng = np.random.default_rng(1)
  shape = (batch_size, image_size, image_size, 3)
  return {
    'image': rng.normal(size=shape).astype(np.float32),
    'label': rng.integers(0, 1000, batch_size),
  }


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
    contenders: names; what the others are compared with first.
    config: the model.
    batch: images and labels.
    repeats: how often each runs, after once to warm up.
  """
  params = random_params(config)
  runners: dict[str, Contender] = {}
  for contender in contenders:
    print(f'preparing {contender} ...', flush=True)
    runners[contender] = maker(contender)(config, params, batch)
  logits = {key: runner.forward() for key, runner in runners.items()}
  for runner in runners.values():
    runner.step()
  moments = {key: runner.moments() for key, runner in runners.items()}
  calls = {}
  for key, runner in runners.items():
    calls |= {(key, 'forward'): runner.forward, (key, 'step'): runner.step}
  seconds = median_seconds(calls, repeats)
  for key, runner in runners.items():
    comparable = moments[key] is not None
    yield {
      'model': name,
      'contender': key,
      'batch_size': len(batch['label']),
      'forward_seconds': seconds[key, 'forward'],
      'step_seconds': seconds[key, 'step'],
      'logits_error': _error(logits[contenders[0]], logits[key])
      if comparable
      else None,
      'gradient_error': _tree_error(moments[contenders[0]], moments[key])
      if comparable
      else None,
    } | runner.costs


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
    '| model | contender | forward (s) | step (s) '
    '| memory (MiB) | trace (s) | compile (s) | error of logits '
    '| of gradients |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    base = next(r for r in rows if r['model'] == row['model'])
    cells = [row['model'], row['contender']]
    for field, unit, digits in (
      ('forward_seconds', 1, 2),
      ('step_seconds', 1, 2),
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


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds what chooses models, contenders and sizes."""
  contenders = dict.fromkeys(c for m in MODELS for c in contenders_of(m))
  parser.add_argument(
    '--models', nargs='+', default=list(MODELS), choices=MODELS
  )
  parser.add_argument(
    '--contenders', nargs='+', default=list(contenders), choices=contenders
  )
  parser.add_argument('--batch_size', type=int, default=1)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--num_blocks', type=int, help='instead of all')
  parser.add_argument('--num_latents', type=int, help='instead of all')
  parser.add_argument('--json', type=pathlib.Path, help='file of all results')


def chosen_contenders(model: str, options: argparse.Namespace) -> list[str]:
  """Returns which contenders of the command line have a model."""
  return [c for c in options.contenders if c in contenders_of(model)]


def main() -> None:
  """Runs what the command line names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_options(parser)
  parser.add_argument('--repeats', type=int, default=3)
  options = parser.parse_args()
  batch = random_batch(options.batch_size, options.image_size)
  rows = []
  for name in options.models:
    contenders = chosen_contenders(name, options)
    config = model_config(name, options.num_blocks, options.num_latents)
    rows += compare(name, contenders, config, batch, options.repeats)
    print(table(rows), flush=True)
  if options.json:
    results = {'environment': environment(), 'rows': rows}
    options.json.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  main()
