"""Compares how very many queries are decoded: time, memory, error.

  python benchmarks/decoder.py --cases flow --fraction 8 --json out.json

The decoder of a published model reads random latents: layer norm, attention,
MLP and the layers of the outputs. Every algorithm runs in this one process, in
turns; times are medians, given as ratios to all queries at once. The error is
the largest difference from these in any output or gradient, over the largest
number in that array. Memory is what the compiled program allocates besides
arguments and results.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from typing import Any

from perceiver_jax.xla_flags import set_cpu_flags

set_cpu_flags()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from contenders import random_params  # noqa: E402
from cross_attention import relative_error  # noqa: E402

import perceiver_jax  # noqa: E402
from perceiver_jax import presets  # noqa: E402
from perceiver_jax.model import PerceiverConfig  # noqa: E402
from perceiver_jax.nn.cross_attention import QueryAlgorithm  # noqa: E402
from perceiver_jax.nn.tokens import Tokens  # noqa: E402


def main() -> None:
  """Measures the cases that the command line names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--cases', nargs='+', default=list(CASES), choices=CASES)
  parser.add_argument(
    '--fraction', type=int, default=1, help='of the queries: 1 in so many'
  )
  parser.add_argument('--chunk_sizes', type=int, nargs='+', default=[None])
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  rows = []
  print('case queries direction algorithm chunk | s ratio | MiB ratio | error')
  for name in options.cases:
    for backward in (False, True):
      rows += _compare(name, options, backward=backward)
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
  name: str, options: argparse.Namespace, *, backward: bool
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
  variants = [(QueryAlgorithm.PLAIN, None)] + [
    (algorithm, size)
    for algorithm in (QueryAlgorithm.CHUNKED, QueryAlgorithm.ABSORBED)
    for size in options.chunk_sizes
  ]
  programs = {
    variant: jax.jit(_program(config, queries, *variant, backward=backward))
    .lower(*arguments)
    .compile()
    for variant in variants
  }
  results = {v: jax.device_get(p(*arguments)) for v, p in programs.items()}
  times = {variant: [] for variant in variants}
  for _ in range(options.repeats):
    for variant, program in programs.items():
      start = time.perf_counter()
      jax.block_until_ready(program(*arguments))
      times[variant].append(time.perf_counter() - start)
  rows = [
    {
      'case': name,
      'fraction': options.fraction,
      'direction': 'forward + backward' if backward else 'forward',
      'algorithm': variant[0].name,
      'chunk_size': variant[1],
      'seconds': statistics.median(times[variant]),
      'bytes': program.memory_analysis().temp_size_in_bytes,
      'error': relative_error(results[variants[0]], results[variant]),
    }
    for variant, program in programs.items()
  ]
  _print(rows)
  return rows


def _program(
  config: PerceiverConfig,
  queries: Any,
  algorithm: QueryAlgorithm,
  chunk_size: int | None,
  *,
  backward: bool,
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

  return forward_and_backward if backward else forward


def _print(rows: list[dict[str, Any]]) -> None:
  plain = rows[0]
  for row in rows:
    print(
      f'{row["case"]:6}1/{row["fraction"]:<3}{row["direction"]:19}'
      f'{row["algorithm"]:9}{row["chunk_size"] or "":>6} |'
      f'{row["seconds"]:8.2f} {row["seconds"] / plain["seconds"]:6.3f} |'
      f'{row["bytes"] / 2**20:9.1f} {row["bytes"] / plain["bytes"]:6.3f} |'
      f' {row["error"]:.1e}',
      flush=True,
    )


if __name__ == '__main__':
  main()
