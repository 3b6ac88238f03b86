"""What a Perceiver is: one `PerceiverConfig` for the models of two papers.

- the original Perceiver (arXiv 2103.03206): several cross-attends to the
  inputs among the latent transformers, weights shared in depth, the mean over
  latents, and a linear layer;
- Perceiver IO (arXiv 2107.14795): one cross-attend, and a decoder that attends
  to the latents from output queries.
"""

import dataclasses
import enum

from perceiver_jax.config import Config
from perceiver_jax.modalities.base import InputConfig, OutputConfig
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig
from perceiver_jax.nn.cross_attention import Algorithm, QueryAlgorithm


class Placement(enum.Enum):
  """Where cross-attends stand: all first, or spread among the blocks."""

  START = enum.auto()
  INTERLEAVED = enum.auto()


class Precision(enum.Enum):
  """What the model computes in; parameters and outputs are always float32.

  GPUs and TPUs multiply matrices of FLOAT32 in fewer bits, unless
  `jax_default_matmul_precision` is set to 'highest'.
  """

  FLOAT32 = enum.auto()
  BFLOAT16 = enum.auto()
  FLOAT16 = enum.auto()


class AverageDecoder(Config):
  """The original Perceiver's decoder: the mean over latents."""


class AttentionDecoder(Config):
  """Perceiver IO's decoder: output queries attend to the latents.

  Attributes:
    query_channels: number E of channels of an output query. None, for outputs
      that are queried by the inputs: as many as an input token has.
    cross_attend: the block.
    query_algorithm: how very many queries are dealt with; the numbers are the
      same, but for the draws of dropout.
    query_chunk_size: queries of an example that are decoded at once, rounded to
      whole rows of their grid; None: by the shapes at hand. Each chunk is
      computed again in the backward pass, whatever `cross_attend.remat` says.
  """

  query_channels: int | None = 1024
  cross_attend: CrossAttendConfig = dataclasses.field(
    default_factory=CrossAttendConfig
  )
  query_algorithm: QueryAlgorithm = QueryAlgorithm.AUTO
  query_chunk_size: int | None = None

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'query_channels', 'query_chunk_size')
    if self.query_chunk_size and self.query_algorithm is QueryAlgorithm.PLAIN:
      raise ValueError(
        'query_chunk_size must be None for PLAIN queries, which are decoded at '
        f'once, got {self.query_chunk_size}.'
      )
    algorithm = self.cross_attend.algorithm
    is_open = algorithm in (Algorithm.AUTO, Algorithm.PLAIN)
    if self.query_algorithm is QueryAlgorithm.ABSORBED and not is_open:
      raise ValueError(
        'the algorithm of cross_attend must be AUTO or PLAIN for ABSORBED '
        f'queries, which read keys and values, got {algorithm.name}.'
      )

  def decode_at_once(self) -> None:
    """Has all queries decoded at once, as published."""
    self.query_algorithm = QueryAlgorithm.PLAIN
    self.query_chunk_size = None


class PerceiverConfig(Config):
  """Describes a Perceiver.

  Attributes:
    inputs: the input modality.
    outputs: the output modality.
    num_latents: number N of latents.
    latent_channels: number D of channels of a latent.
    latent_init_scale: standard deviation of the truncated normal from which
      the latents start.
    num_cross_attends: how often the latents attend to the inputs.
    cross_attend_placement: all cross-attends first, or one before each of
      `num_cross_attends` equal groups of latent transformers.
    share_cross_attends: all cross-attends but the first, which always has its
      own weights, share one set.
    num_blocks: number of latent transformers.
    num_self_attends_per_block: layers of a latent transformer.
    share_blocks: all latent transformers share one set of weights.
    cross_attend: the block with which latents read inputs.
    self_attend: the layer of a latent transformer.
    decoder: how outputs read latents.
    precision: what the model computes in.
    unroll: a Python loop over layers instead of a scan: slower to compile, the
      same numbers.
  """

  inputs: InputConfig
  outputs: OutputConfig
  num_latents: int = 512
  latent_channels: int = 1024
  latent_init_scale: float = 0.02
  num_cross_attends: int = 1
  cross_attend_placement: Placement = Placement.INTERLEAVED
  share_cross_attends: bool = True
  num_blocks: int = 8
  num_self_attends_per_block: int = 6
  share_blocks: bool = True
  cross_attend: CrossAttendConfig = dataclasses.field(
    default_factory=CrossAttendConfig
  )
  self_attend: SelfAttendConfig = dataclasses.field(
    default_factory=lambda: SelfAttendConfig(num_heads=8)
  )
  decoder: AverageDecoder | AttentionDecoder = dataclasses.field(
    default_factory=AttentionDecoder
  )
  precision: Precision = Precision.FLOAT32
  unroll: bool = False

  @property
  def blocks_per_cross_attend(self) -> int:
    """Latent transformers between one cross-attend and the next."""
    if self.cross_attend_placement is Placement.START:
      return self.num_blocks
    return self.num_blocks // self.num_cross_attends

  @property
  def reads_inputs_again(self) -> bool:
    """Whether `process` attends to the inputs, after `encode` has."""
    return self.num_cross_attends > 1

  @property
  def decoded_channels(self) -> int:
    """Channels of what the outputs are made of: queries or the mean latent."""
    if isinstance(self.decoder, AverageDecoder):
      return self.latent_channels
    if self.decoder.query_channels is None:
      return self.inputs.num_channels
    return self.decoder.query_channels

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(
      1,
      'num_latents',
      'latent_channels',
      'num_cross_attends',
      'num_blocks',
      'num_self_attends_per_block',
    )
    self._validate_at_least(0, 'latent_init_scale')
    interleaved = self.cross_attend_placement is Placement.INTERLEAVED
    if interleaved and self.num_blocks % self.num_cross_attends:
      raise ValueError(
        'num_blocks must be divisible by num_cross_attends '
        f'{self.num_cross_attends} to interleave them, got {self.num_blocks}.'
      )
    self.cross_attend.validate_heads(self.inputs.num_channels)
    self.self_attend.validate_heads(self.latent_channels)
    self._validate_outputs()

  def _validate_outputs(self) -> None:
    outputs = type(self.outputs).__name__
    if isinstance(self.decoder, AverageDecoder):
      if not self.outputs.has_single_query:
        raise ValueError(
          f'the decoder of {outputs} must be an AttentionDecoder, got an '
          'AverageDecoder, which reads one vector an example.'
        )
    else:
      self.decoder.cross_attend.validate_heads(self.latent_channels)
      channels = self.decoder.query_channels
      if self.outputs.is_queried_by_inputs != (channels is None):
        rule = 'a number' if channels is None else 'None'
        raise ValueError(
          f'query_channels must be {rule} for {outputs}, got {channels}.'
        )
      if self.outputs.num_query_channels not in (None, channels):
        raise ValueError(
          f'query_channels must be {self.outputs.num_query_channels} for '
          f'{outputs}, got {channels}.'
        )
    self.outputs.validate_fit(self.inputs, self.decoded_channels)
