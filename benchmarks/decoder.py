"""Compares how very many queries are decoded: time, memory, error.

  python benchmarks/decoder.py --cases flow --fraction 8 --json out.json

The decoder of a published model reads random latents: layer norm, attention,
MLP and the layers of the outputs. Every algorithm runs in this one process, in
turns; times are medians, given as ratios to the first, which is all queries at
once unless `--algorithms` says otherwise. The error is the largest difference
from the first in any output or gradient, over the largest number in that array.
Memory is what the compiled program allocates besides arguments and results. A
program that would need more than `--max_gib` is compiled, for its memory, but
not run.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
from typing import Any

from perceiver_jax.xla_flags import set_cpu_flags

set_cpu_flags()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from contenders import random_params  # noqa: E402
from cross_attention import relative_error  # noqa: E402
from timing import median_seconds  # noqa: E402

import perceiver_jax  # noqa: E402
from perceiver_jax import presets  # noqa: E402
from perceiver_jax.model import PerceiverConfig  # noqa: E402
from perceiver_jax.nn.cross_attention import QueryAlgorithm  # noqa: E402
from perceiver_jax.nn.tokens import Tokens  # noqa: E402

_DIRECTIONS = ('forward', 'forward+backward')
_ALGORITHMS = [a.name for a in QueryAlgorithm if a is not QueryAlgorithm.AUTO]


def main() -> None:
  """Measures the cases that the command line names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--cases', nargs='+', default=list(CASES), choices=CASES)
  parser.add_argument(
    '--fraction', type=int, default=1, help='of the queries: 1 in so many'
  )
  parser.add_argument(
    '--algorithms', nargs='+', default=_ALGORITHMS, choices=_ALGORITHMS
  )
  parser.add_argument(
    '--directions', nargs='+', default=_DIRECTIONS, choices=_DIRECTIONS
  )
  parser.add_argument('--chunk_sizes', type=int, nargs='+', default=[None])
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--max_gib', type=float, default=6.0)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  rows = []
  print('case queries direction algorithm chunk | s ratio | MiB ratio | error')
  for name in options.cases:
    for direction in options.directions:
      rows += _compare(name, direction, options)
  if options.json:
    options.json.write_text(json.dumps(rows, indent=2))


def _normal(*shape: int, seed: int) -> jax.Array:
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def _flow(fraction: int) -> tuple[PerceiverConfig, Tokens]:
  """Returns optical flow of a part of the rows, and its queries."""
  config = presets.perceiver_io_optical_flow()
  axes = (368 // fraction, 496)
  content = _normal(1, *axes, config.inputs.embedding_channels, seed=0)
  return config, Tokens(content, config.inputs.positions(axes))


def _video(fraction: int) -> tuple[PerceiverConfig, dict[str, None]]:
  """Returns an autoencoder of a part of the frames, and its queries."""
  config = presets.perceiver_io_kinetics_autoencoding()
  image = config.outputs.modalities['image']
  image.size = (image.size[0] // fraction, *image.size[1:])
  return config, {'image': None}


CASES = {'flow': _flow, 'video': _video}


def _compare(
  name: str, direction: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
  """Measures all algorithms on one case; prints and returns rows."""
  config, queries = CASES[name](options.fraction)
  latents = _normal(1, config.num_latents, config.latent_channels, seed=1)
  arguments = (
    {
      key: value
      for key, value in random_params(config).items()
      if key.startswith(('decoder', 'outputs'))
    },
    latents,
    queries.content if isinstance(queries, Tokens) else (),
  )
  variants = [
    (QueryAlgorithm[name], size)
    for name in options.algorithms
    for size in ([None] if name == 'PLAIN' else options.chunk_sizes)
  ]
  programs = {
    variant: jax.jit(_program(config, queries, *variant, direction))
    .lower(*arguments)
    .compile()
    for variant in variants
  }
  measured = _run(programs, arguments, options)
  rows = [
    {
      'case': name,
      'fraction': options.fraction,
      'direction': direction,
      'algorithm': algorithm.name,
      'chunk_size': size,
      'bytes': program.memory_analysis().temp_size_in_bytes,
    }
    | measured.get((algorithm, size), {'seconds': None, 'error': None})
    for (algorithm, size), program in programs.items()
  ]
  _print(rows)
  return rows


def _run(
  programs: dict[Any, Any],
  arguments: tuple[Any, ...],
  options: argparse.Namespace,
) -> dict[Any, dict[str, float]]:
  """Returns time and error of the programs that are small enough to run."""
  programs = {
    key: program
    for key, program in programs.items()
    if program.memory_analysis().temp_size_in_bytes <= options.max_gib * 2**30
  }
  results = {k: jax.device_get(p(*arguments)) for k, p in programs.items()}
  calls = {k: functools.partial(p, *arguments) for k, p in programs.items()}
  seconds = median_seconds(calls, options.repeats)
  return {
    key: {
      'seconds': seconds[key],
      'error': relative_error(next(iter(results.values())), result),
    }
    for key, result in results.items()
  }


def _program(
  config: PerceiverConfig,
  queries: Any,
  algorithm: QueryAlgorithm,
  chunk_size: int | None,
  direction: str,
) -> Any:
  config = config.copy()
  config.decoder.query_algorithm = algorithm
  config.decoder.query_chunk_size = chunk_size
  decode = perceiver_jax.build(config).decode

  def forward(params, latents, content):
    raw_queries = queries
    if isinstance(queries, Tokens):
      raw_queries = dataclasses.replace(queries, content=content)
    return decode(params, None, latents, raw_queries)

  def forward_and_backward(*arguments):
    outputs, pull = jax.vjp(forward, *arguments)
    return outputs, pull(jax.tree.map(jnp.sin, outputs))

  return forward if direction == 'forward' else forward_and_backward


def _print(rows: list[dict[str, Any]]) -> None:
  base = next((row['seconds'] for row in rows if row['seconds']), None)
  for row in rows:
    seconds = '        not run'
    error = ''
    if row['seconds']:
      seconds = f'{row["seconds"]:8.2f} {row["seconds"] / base:6.3f}'
      error = f' {row["error"]:.1e}'
    print(
      f'{row["case"]:6}1/{row["fraction"]:<3}{row["direction"]:19}'
      f'{row["algorithm"]:9}{row["chunk_size"] or "":>6} |{seconds} |'
      f'{row["bytes"] / 2**20:9.1f} {row["bytes"] / rows[0]["bytes"]:6.3f} |'
      f'{error}',
      flush=True,
    )


if __name__ == '__main__':
  main()
