"""Sizes of the demo model and settings of its training; the one place to change them."""
from dataclasses import asdict, dataclass, field

TEXT_ROWS = 512  # rows of text that cross-attention sees
TOKENS = 56      # tokens of a caption in training; the last row always is padding and stands for all that follow


@dataclass
class TextConfig:
    vocab_size: int = 0  # set from the tokenizer
    d_model: int = 128
    d_kv: int = 32
    num_heads: int = 4
    d_ff: int = 256
    num_layers: int = 3
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128


@dataclass
class DenoiserConfig:
    num_layers: int = 8
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    ffn_dim: int = 768
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 128
    freq_dim: int = 256

    @property
    def dim(self):
        return self.num_attention_heads * self.attention_head_dim


@dataclass
class VaeConfig:
    base_dim: int = 16
    z_dim: int = 16
    dim_mult: tuple = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple = (False, True, True)


@dataclass
class Settings:
    text: TextConfig = field(default_factory=TextConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    frames: int = 33
    size: int = 128
    fps: int = 16
    flow_shift: float = 3.0
    steps: int = 20
    guidance: float = 3.0

    def plain(self):
        return asdict(self)


def tiny():
    """A configuration for trying the whole chain on a CPU in a minute."""
    s = Settings()
    s.text = TextConfig(d_model=32, d_kv=16, num_heads=2, d_ff=32, num_layers=1)
    s.denoiser = DenoiserConfig(num_layers=2, num_attention_heads=2, attention_head_dim=16, ffn_dim=48, text_dim=32)
    s.vae = VaeConfig(base_dim=4, num_res_blocks=1)
    return s
