"""Compares the memory of whole training steps, of PyTorch's as well.

  python benchmarks/step_memory.py --models perceiver --json=out.json

Each contender of `train_step.py` trains in a process of its own, which has done
nothing else: one step, in which the optimizer makes its state, and one that is
measured. Memory is the largest resident set in that step less the one before
the model was made: parameters, moments, gradients, activations, the compiled
program. For JAX also what the compiled step allocates besides arguments and
results. Linux only. Models run one after another, so that other work on the
machine changes nothing.
"""

import argparse
import concurrent.futures
import ctypes
import json
import multiprocessing
import pathlib
import re
from typing import Any

import train_step  # First: it sets flags of the compiler.
from contenders import random_params

_STATUS = pathlib.Path('/proc/self/status')
_CLEAR_REFS = pathlib.Path('/proc/self/clear_refs')


def main() -> None:
  """Measures what the command line names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  train_step.add_options(parser)
  options = parser.parse_args()
  rows = []
  print('model         contender               peak MiB  ratio    program MiB')
  for model in options.models:
    plain = None
    for contender in train_step.chosen_contenders(model, options):
      rows.append(_in_new_process(model, contender, options))
      row = rows[-1]
      plain = plain or row['peak_bytes']
      program = row['program_bytes']
      print(
        f'{model:14}{contender:24}{row["peak_bytes"] / 2**20:11,.0f}'
        f'{row["peak_bytes"] / plain:6.2f}'
        + ('' if program is None else f'{program / 2**20:15,.0f}'),
        flush=True,
      )
  if options.json:
    options.json.write_text(json.dumps(rows, indent=1) + '\n')


def _in_new_process(
  model: str, contender: str, options: argparse.Namespace
) -> dict[str, Any]:
  with concurrent.futures.ProcessPoolExecutor(
    max_workers=1, mp_context=multiprocessing.get_context('spawn')
  ) as executor:
    return executor.submit(_measure, model, contender, options).result()


def _measure(
  model: str, contender: str, options: argparse.Namespace
) -> dict[str, Any]:
  """Returns the memory of the second step of a contender."""
  config = train_step.model_config(
    model, options.num_blocks, options.num_latents
  )
  params = random_params(config)
  batch = train_step.random_batch(options.batch_size, options.image_size)
  make = train_step.maker(contender)
  before = _resident('VmRSS')
  runner = make(config, params, batch)
  runner.step()
  # What compilation and the first step have freed goes back to the system.
  ctypes.CDLL(None).malloc_trim(0)
  _CLEAR_REFS.write_text('5')  # The peak begins anew; see proc(5).
  runner.step()
  return {
    'model': model,
    'contender': contender,
    'batch_size': options.batch_size,
    'peak_bytes': _resident('VmHWM') - before,
    'program_bytes': runner.costs.get('program_bytes'),
  }


def _resident(field: str) -> int:
  """Returns VmRSS or VmHWM, the resident set now or at its peak, in bytes."""
  kib = re.search(rf'^{field}:\s+(\d+) kB$', _STATUS.read_text(), re.M)
  assert kib is not None
  return int(kib[1]) * 1024


if __name__ == '__main__':
  main()
