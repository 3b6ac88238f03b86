"""Compares the algorithms of cross-attention: time, memory, FLOPs, error.

  python benchmarks/cross_attention.py --cases imagenet --json out.json

Every algorithm runs in this one process, in turns; times are medians, given as
ratios to the plain algorithm. The error is the largest difference from plain
in any output or gradient, over the largest number in that array. Memory is
what the compiled program allocates besides arguments and results. FLOPs are
those of all matrix products, by their shapes, in every step of a loop.
"""

import argparse
import functools
import json
import pathlib
from typing import Any, NamedTuple

from perceiver_jax.xla_flags import set_cpu_flags

set_cpu_flags()

import haiku as hk  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from timing import median_seconds  # noqa: E402

from perceiver_jax.flops import flops_of  # noqa: E402
from perceiver_jax.modalities.image import FourierPositions  # noqa: E402
from perceiver_jax.nn.cross_attention import (  # noqa: E402
  Algorithm,
  CrossAttention,
  InputNorm,
  prepare,
)
from perceiver_jax.nn.positions import learned_positions  # noqa: E402
from perceiver_jax.nn.tokens import JoinedTokens, Tokens  # noqa: E402


class Block(NamedTuple):
  """The shapes of inputs of one modality.

  Attributes:
    axes: sizes of the grid of inputs.
    content: channels of the inputs, without positions.
    num_bands: of Fourier positions; 0: none.
  """

  axes: tuple[int, ...]
  content: int
  num_bands: int = 0


class Case(NamedTuple):
  """The shapes of a cross-attend.

  Attributes:
    blocks: the inputs; of several modalities they get learned channels, as
      many as the widest has and 4 more.
    num_queries: number N.
    query_channels: number D.
    qk_channels: of queries and keys; None: as many as inputs have.
    v_channels: of values; None: as `qk_channels`.
    num_heads: number H.
    trains_content: whether the content needs a gradient.
  """

  blocks: tuple[Block, ...]
  num_queries: int = 512
  query_channels: int = 1024
  qk_channels: int | None = None
  v_channels: int | None = None
  num_heads: int = 1
  trains_content: bool = False


CASES = {
  'imagenet': Case((Block((224, 224), 3, 64),)),
  'imagenet_conv': Case((Block((56, 56), 64, 64),), trains_content=True),
  'video': Case((Block((16, 56, 56), 48, 64),)),
  'text': Case((Block((2048,), 768),), 256, 1280, 256, 1280, 8, True),
  'class_decoder': Case((Block((512,), 1024),), 1, trains_content=True),
  'audioset': Case(
    (Block((480,), 128, 64), Block((16, 28, 28), 384, 16)), 512, 512
  ),
  'kinetics': Case(
    (
      Block((1920,), 16, 192),
      Block((16, 56, 56), 48, 32),
      Block((1,), 700),
    ),
    784,
    512,
  ),
  'flow': Case((Block((368, 496), 64, 64),), 2048, 512, trains_content=True),
  'flow_decoder': Case(
    (Block((2048,), 512),), 182_528, 322, 512, trains_content=True
  ),
  # The queries of one of sixteen frames.
  'video_decoder': Case(
    (Block((784,), 512),), 50_176, 1026, 512, trains_content=True
  ),
}


def main() -> None:
  """Measures the cases that the command line names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--cases', nargs='+', default=list(CASES), choices=CASES)
  parser.add_argument('--batch_size', type=int, default=1)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  rows = []
  print('case direction algorithm | time (ms) ratio | MiB ratio | GFLOP error')
  for name in options.cases:
    for backward in (False, True):
      rows += _compare(name, options.batch_size, backward, options.repeats)
  if options.json:
    options.json.write_text(json.dumps(rows, indent=2))


def _compare(
  name: str, batch_size: int, backward: bool, repeats: int
) -> list[dict[str, Any]]:
  """Measures all algorithms on one case; prints and returns rows."""
  programs, arguments = {}, _arguments(CASES[name], batch_size)
  for algorithm in Algorithm:
    program = _program(CASES[name], algorithm, backward)
    try:
      programs[algorithm] = jax.jit(program).lower(*arguments).compile()
    except ValueError:
      continue  # The algorithm does not apply.
  flops = {
    algorithm: flops_of(_program(CASES[name], algorithm, backward), *arguments)
    for algorithm in programs
  }
  results = {a: jax.device_get(p(*arguments)) for a, p in programs.items()}
  calls = {a: functools.partial(p, *arguments) for a, p in programs.items()}
  seconds = median_seconds(calls, repeats)
  rows = []
  for algorithm, program in programs.items():
    rows.append(
      {
        'case': name,
        'batch_size': batch_size,
        'direction': 'forward + backward' if backward else 'forward',
        'algorithm': algorithm.name,
        'seconds': seconds[algorithm],
        'bytes': program.memory_analysis().temp_size_in_bytes,
        'flops': flops[algorithm],
        'error': relative_error(results[Algorithm.PLAIN], results[algorithm]),
      }
    )
  _print(rows)
  return rows


def _print(rows: list[dict[str, Any]]) -> None:
  (plain,) = [row for row in rows if row['algorithm'] == 'PLAIN']
  for row in rows:
    seconds = row['seconds'] / plain['seconds']
    size = row['bytes'] / plain['bytes']
    print(
      f'{row["case"]:14}{row["direction"]:19}{row["algorithm"]:10}|'
      f'{row["seconds"] * 1e3:9.1f} {seconds:6.3f} |'
      f'{row["bytes"] / 2**20:8.1f} {size:6.3f} |'
      f'{row["flops"] / 1e9:8.2f} {row["error"]:.1e}',
      flush=True,
    )


def _arguments(case: Case, batch_size: int) -> tuple[Any, ...]:
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  queries = normal(batch_size, case.num_queries, case.query_channels)
  content = tuple(
    normal(batch_size, *block.axes, block.content) for block in case.blocks
  )
  program = _attention(case, Algorithm.PLAIN)
  shapes = jax.eval_shape(program.init, jax.random.key(0), queries, content)
  params = jax.tree.map(
    lambda leaf: normal(*leaf.shape) / leaf.shape[0] ** 0.5, shapes
  )
  return params, queries, content, normal(*queries.shape)


def _attention(case: Case, algorithm: Algorithm) -> hk.Transformed:
  """Returns layer norm and attention, without the rest of the block."""

  def attend(queries, content):
    tokens = _tokens(case, content)
    qk_channels = case.qk_channels or tokens.num_channels
    sizes = {
      'num_heads': case.num_heads,
      'qk_channels': qk_channels,
      'v_channels': case.v_channels or qk_channels,
    }
    inputs = prepare(tokens, algorithm, num_queries=case.num_queries, **sizes)
    attention = CrossAttention(**sizes, dropout_prob=0.0, name='attention')
    norm = InputNorm('input_norm')(inputs.num_channels)
    return attention(queries, inputs, norm, None, None, is_training=False)

  return hk.transform(attend)


def _tokens(
  case: Case, content: tuple[jax.Array, ...]
) -> Tokens | JoinedTokens:
  """Returns the inputs, joined if they are of several modalities."""
  blocks = []
  for block, array in zip(case.blocks, content, strict=True):
    fourier = FourierPositions(num_bands=block.num_bands)
    positions = fourier(block.axes) if block.num_bands else ()
    blocks.append(Tokens(array, positions))
  if len(blocks) == 1:
    return blocks[0]
  width = 4 + max(block.num_channels for block in blocks)
  names = tuple(f'block_{i}' for i in range(len(blocks)))
  padded = []
  for name, block in zip(names, blocks, strict=True):
    (constant,) = learned_positions(1, width - block.num_channels, 0.02, name)
    padded.append(Tokens(block.content, block.positions, constant))
  return JoinedTokens(tuple(padded), names)


def _program(case: Case, algorithm: Algorithm, backward: bool) -> Any:
  apply = _attention(case, algorithm).apply

  def forward(params, queries, content, cotangent):
    del cotangent
    return apply(params, None, queries, content)

  def forward_and_backward(params, queries, content, cotangent):
    if case.trains_content:
      primals = (params, queries, content)
      output, pull = jax.vjp(lambda *p: apply(p[0], None, *p[1:]), *primals)
    else:
      output, pull = jax.vjp(
        lambda *p: apply(p[0], None, p[1], content), params, queries
      )
    return output, pull(cotangent)

  return forward_and_backward if backward else forward


def relative_error(expected: Any, actual: Any) -> float:
  """Returns the largest error of any array, relative to its largest number.

  Of an array of zeros it is the largest number that should be zero.
  """
  paths, _ = jax.tree_util.tree_flatten_with_path(expected)
  leaves = jax.tree.leaves(actual)
  return max(
    float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) or 1.0))
    for (path, a), b in zip(paths, leaves, strict=True)
    # The exact gradient of a key bias is zero.
    if not jax.tree_util.keystr(path).endswith("key']['b']")
  )


if __name__ == '__main__':
  main()
