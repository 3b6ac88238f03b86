"""What the devices that people train on could do at most."""

from typing import NamedTuple

import jax

from perceiver_jax.model import Precision


class _Peak(NamedTuple):
  """FLOP/s of dense matrix products, without structured sparsity.

  Attributes:
    half: in bfloat16 or float16, with float32 sums.
    fast_float32: as JAX multiplies float32 by default: TensorFloat-32 on GPUs,
      bfloat16 on TPUs.
    float32: in float32 itself; None where no unit does it.
  """

  half: float
  fast_float32: float
  float32: float | None


def _tpu(flops: float) -> _Peak:
  return _Peak(flops, flops, None)


_A100 = _Peak(312e12, 156e12, 19.5e12)

# By `jax.Device.device_kind`, as JAX's `pallas/mosaic/tpu_info.py` lists those
# of TPUs. A device of v2, v3 and TPU7x is one of the two cores of a chip; of
# the others it is a chip.
_PEAKS = {
  'TPU v2': _tpu(46e12 / 2),  # The same file of JAX.
  # docs.cloud.google.com/tpu/docs/: v3, v4, v5e, v5p, v6e and tpu7x, of a chip.
  'TPU v3': _tpu(123e12 / 2),
  'TPU v4': _tpu(275e12),
  'TPU v5 lite': _tpu(197e12),
  'TPU v5e': _tpu(197e12),
  'TPU v5': _tpu(459e12),
  'TPU v5p': _tpu(459e12),
  'TPU v6 lite': _tpu(918e12),
  'TPU v6e': _tpu(918e12),
  'TPU7x': _tpu(2307e12 / 2),
  # What NVIDIA states with structured sparsity is twice this.
  # www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/
  # nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf, of 80 GB; those of 40 GB
  # compute as fast.
  'NVIDIA A100-PCIE-40GB': _A100,
  'NVIDIA A100-SXM4-40GB': _A100,
  'NVIDIA A100-SXM4-80GB': _A100,
  'NVIDIA A100 80GB PCIe': _A100,
  # resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet.
  'NVIDIA H100 PCIe': _Peak(756.5e12, 378e12, 51e12),
  # www.nvidia.com/en-us/data-center/h100/: NVL, SXM.
  'NVIDIA H100 NVL': _Peak(835.5e12, 417.5e12, 60e12),
  'NVIDIA H100 80GB HBM3': _Peak(989.5e12, 494.5e12, 67e12),
  # www.nvidia.com/en-us/data-center/h200/: NVL, SXM.
  'NVIDIA H200 NVL': _Peak(835.5e12, 417.5e12, 60e12),
  'NVIDIA H200': _Peak(989.5e12, 494.5e12, 67e12),
  # resources.nvidia.com/en-us-data-center-overview/l4-gpu-datasheet.
  'NVIDIA L4': _Peak(121e12, 60e12, 30.3e12),
}


def peak_flops(device_kind: str, precision: Precision) -> float | None:
  """Returns the FLOP/s that a device could do at most in matrix products.

  Args:
    device_kind: of `jax.Device`.
    precision: of the model; in float32 it also depends on
      `jax_default_matmul_precision`.

  Returns:
    FLOP/s; None if they are not known.
  """
  peak = _PEAKS.get(device_kind)
  if peak is None:
    return None
  if precision is not Precision.FLOAT32:
    return peak.half
  match jax.config.jax_default_matmul_precision:
    case None | 'default':
      return peak.fast_float32
    case 'highest' | 'float32':
      return peak.float32
    case _:
      return None
