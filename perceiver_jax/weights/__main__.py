"""Converts files of weights: from those of others to ours, and back.

  python -m perceiver_jax.weights convert SOURCE DESTINATION \
    --from=deepmind --preset=perceiver_io_language_bytes
  python -m perceiver_jax.weights convert SOURCE DESTINATION --to=huggingface

Ours are those of `perceiver_jax.save_pretrained`.
"""

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import Any

from perceiver_jax import presets
from perceiver_jax.weights import flat
from perceiver_jax.weights.deepmind import load_deepmind, save_deepmind
from perceiver_jax.weights.huggingface import (
  ConvKernels,
  as_huggingface,
  load_huggingface,
  save_huggingface,
)
from perceiver_jax.weights.native import (
  Pretrained,
  load_pretrained,
  save_pretrained,
)

_LOADERS = {'deepmind': load_deepmind, 'huggingface': load_huggingface}
_SAVERS = {'deepmind': save_deepmind, 'huggingface': save_huggingface}
_SEMANTICS = {'deepmind': lambda config: config, 'huggingface': as_huggingface}
_CONV_KERNELS = {kernels.name.lower(): kernels for kernels in ConvKernels}
_PRESETS = {
  name: preset
  for name, preset in inspect.getmembers(presets, inspect.isfunction)
  if preset.__module__.startswith(presets.__name__)
}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one command; errors of the user end it with a line."""
  parser, convert = _parsers()
  arguments = parser.parse_args(argv)
  _check(convert, arguments)
  try:
    weights = _convert(arguments)
  except (ValueError, TypeError, OSError, ImportError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  params = flat.totals(flat.flatten(weights.params, {}).values())
  state = flat.totals(flat.flatten({}, weights.state).values())
  print(f'{arguments.destination}: parameters: {params}; state: {state}.')


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
  """Returns the parser of the program and that of its one command."""
  parser = argparse.ArgumentParser(
    prog='python -m perceiver_jax.weights', allow_abbrev=False
  )
  commands = parser.add_subparsers(required=True, metavar='convert')
  convert = commands.add_parser(
    'convert', help='convert a file', allow_abbrev=False
  )
  convert.add_argument('source', help='file to read')
  convert.add_argument('destination', help='file to write')
  direction = convert.add_mutually_exclusive_group(required=True)
  direction.add_argument(
    '--from',
    choices=_LOADERS,
    dest='origin',
    help="the source is a pickle of DeepMind's, or a state dict of Hugging "
    'Face (.safetensors; .bin where PyTorch is installed)',
  )
  direction.add_argument(
    '--to', choices=_SAVERS, help='the source is ours; what to make of it'
  )
  convert.add_argument(
    '--preset',
    choices=_PRESETS,
    metavar='NAME',
    help='with --from: whose weights they are, a function of '
    f'perceiver_jax.presets: {", ".join(_PRESETS)}',
  )
  convert.add_argument(
    '--conv_kernels',
    choices=_CONV_KERNELS,
    help="with Hugging Face's: how kernels of convolutions lie in the file, as "
    'PyTorch uses them (the default), or with rows and columns exchanged, as '
    'the script that converted the published weights wrote them',
  )
  convert.add_argument(
    '--semantics',
    choices=_SEMANTICS,
    help='with --from=huggingface: what the model shall compute, what the '
    'weights were trained for (deepmind, the default) or what the code of '
    'Hugging Face makes of them',
  )
  return parser, convert


def _check(
  parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> None:
  """Refuses options that the conversion would not look at."""
  origin, to = arguments.origin, arguments.to
  if origin and not arguments.preset:
    parser.error('--preset must be given with --from.')
  for name, is_of_use in {
    'preset': origin is not None,
    'conv_kernels': 'huggingface' in (origin, to),
    'semantics': origin == 'huggingface',
  }.items():
    if getattr(arguments, name) and not is_of_use:
      direction = f'--from={origin}' if origin else f'--to={to}'
      parser.error(f'--{name} must be left out with {direction}.')


def _convert(arguments: argparse.Namespace) -> Pretrained:
  """Converts a file and returns what was in it."""
  options: dict[str, Any] = {}
  if arguments.conv_kernels:
    options['conv_kernels'] = _CONV_KERNELS[arguments.conv_kernels]
  if arguments.to:
    weights = load_pretrained(arguments.source)
    _SAVERS[arguments.to](arguments.destination, *weights, **options)
    return weights
  config = _PRESETS[arguments.preset]()
  if arguments.semantics:
    config = _SEMANTICS[arguments.semantics](config)
  load = _LOADERS[arguments.origin]
  weights = Pretrained(config, *load(arguments.source, config, **options))
  save_pretrained(arguments.destination, *weights)
  return weights


if __name__ == '__main__':
  main()
