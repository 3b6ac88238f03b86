"""How fast a run goes, what of its devices it uses, and what it waits for."""

import time
from collections.abc import Callable

import jax
import psutil

from perceiver_jax.data.prefetch import Prefetcher
from perceiver_jax.training.job import Job, forward_flops
from perceiver_jax.training.peak_flops import peak_flops

SPEED_SPLIT = 'speed'
"""The split of lines of metrics that differ from run to run."""

_FORWARDS_PER_UPDATE = 3
_GIBIBYTE = 2**30


class Speedometer:
  """Measures the training between two looks, without what `restart` cuts out.

  FLOPs are those that the update of a model takes by formula: three times those
  of the forward pass by the published algorithm (`perceiver_jax.count_flops`),
  because the backward pass has two matrix products for each: the gradient of
  its input and that of its weights. What remat computes again does not count,
  nor do the optimizer and augmentation. Equivalent algorithms get by with less:
  a model that uses them may come to more FLOP/s than its device does.

  Args:
    job: what is trained.
    batches: whose waiting time counts as that for data.
    clock: a function that returns seconds since some moment.
  """

  def __init__(
    self,
    job: Job,
    batches: Prefetcher,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    self._batch_size = job.config.data.batch_size
    self._flops_per_example = _FORWARDS_PER_UPDATE * forward_flops(job)
    device = jax.local_devices()[0]
    self._peak = peak_flops(device.device_kind, job.config.model.precision)
    self._batches, self._clock = batches, clock
    self._step: int | None = None

  def restart(self, step: int) -> None:
    """Measures from now on, with so many updates done."""
    self._step = step
    self._time, self._wait_secs = self._clock(), self._batches.wait_secs

  def read(self, step: int) -> dict[str, float]:
    """Returns means since the last look, {} if there were no updates.

    Args:
      step: updates done so far, none of which is still under way.

    Returns:
      `steps_per_sec`, `examples_per_sec` of all devices and of each,
      `data_wait_fraction` of the time in which this process had no batch,
      `flops_per_sec_per_device`, and `peak_flops_fraction` of what such a
      device could do at most, if that is known; and the memory in use now:
      `host_memory_gib` of this process and those it started,
      `device_memory_gib` and its peak, of the fullest device of this process,
      if the device tells.
    """
    if self._step is None:
      self.restart(step)
    steps, secs = step - self._step, self._clock() - self._time
    waited = self._batches.wait_secs - self._wait_secs
    self.restart(step)
    if not steps:
      return {}
    examples = steps * self._batch_size / secs
    per_device = examples / jax.device_count()
    flops = per_device * self._flops_per_example
    speed = {
      'steps_per_sec': steps / secs,
      'examples_per_sec': examples,
      'examples_per_sec_per_device': per_device,
      'data_wait_fraction': waited / secs,
      'flops_per_sec_per_device': flops,
    }
    if self._peak is not None:
      speed['peak_flops_fraction'] = flops / self._peak
    return speed | memory()


def memory() -> dict[str, float]:
  """Returns the memory in use on the host and on the fullest device, in GiB."""
  this = psutil.Process()
  num_bytes = this.memory_info().rss
  for child in this.children(recursive=True):
    try:
      num_bytes += child.memory_info().rss
    except psutil.Error:
      continue  # It has ended.
  found = {'host_memory_gib': num_bytes / _GIBIBYTE}
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  for name, key in {
    'device_memory_gib': 'bytes_in_use',
    'peak_device_memory_gib': 'peak_bytes_in_use',
  }.items():
    if values := [stat[key] for stat in stats if key in stat]:
      found[name] = max(values) / _GIBIBYTE
  return found
