"""Times of functions, measured side by side."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax

Key = TypeVar('Key', bound=Hashable)


def median_seconds(
  functions: Mapping[Key, Callable[[], Any]], repeats: int
) -> dict[Key, float]:
  """Calls functions in turns and returns the median time of each.

  What slows the machine for a while slows all of them.

  Args:
    functions: already called once, to warm up; what they return is waited for.
    repeats: how often each is called.
  """
  times = {key: [] for key in functions}
  for _ in range(repeats):
    for key, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      times[key].append(time.perf_counter() - start)
  return {key: statistics.median(seconds) for key, seconds in times.items()}
