"""The text encoder: UMT5's encoder, small, with its parameter names; and its sentencepiece tokenizer."""
import math

import sentencepiece
import torch
import torch.nn as nn
import torch.nn.functional as F


class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


def relative_buckets(length, buckets, max_distance):
    """T5's bidirectional buckets [length, length]: exact up to a quarter of them, then logarithmic."""
    position = torch.arange(length)
    offset = position[None] - position[:, None]
    half = buckets // 2
    result = (offset > 0).long() * half
    offset = offset.abs()
    exact = half // 2
    log = exact + (torch.log(offset.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)).long()
    return result + torch.where(offset < exact, offset, log.clamp(max=half - 1))


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        inner = c.num_heads * c.d_kv
        self.config = c
        self.q, self.k, self.v = (nn.Linear(c.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, c.d_model, bias=False)
        self.relative_attention_bias = nn.Embedding(c.relative_attention_num_buckets, c.num_heads)
        nn.init.normal_(self.q.weight, std=(c.d_model * c.d_kv) ** -0.5)
        for linear in (self.k, self.v):
            nn.init.normal_(linear.weight, std=c.d_model ** -0.5)
        nn.init.normal_(self.o.weight, std=inner ** -0.5 * 0.5)
        nn.init.normal_(self.relative_attention_bias.weight, std=0.1)

    def forward(self, x, buckets, mask):
        q, k, v = (layer(x).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None] + mask
        scores = q.float() @ k.float().transpose(-1, -2) + bias
        x = (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
        return self.o(x)


class _AttentionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.SelfAttention, self.layer_norm = SelfAttention(c), Scale(c.d_model)

    def forward(self, x, buckets, mask):
        return x + self.SelfAttention(self.layer_norm(x), buckets, mask)


class _Gated(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.wi_0, self.wi_1 = nn.Linear(c.d_model, c.d_ff, bias=False), nn.Linear(c.d_model, c.d_ff, bias=False)
        self.wo = nn.Linear(c.d_ff, c.d_model, bias=False)
        for linear in (self.wi_0, self.wi_1):
            nn.init.normal_(linear.weight, std=c.d_model ** -0.5)
        nn.init.normal_(self.wo.weight, std=c.d_ff ** -0.5 * 0.5)

    def forward(self, x):
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class _FeedForwardLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.DenseReluDense, self.layer_norm = _Gated(c), Scale(c.d_model)

    def forward(self, x):
        return x + self.DenseReluDense(self.layer_norm(x))


class _Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer = nn.ModuleList([_AttentionLayer(c), _FeedForwardLayer(c)])

    def forward(self, x, buckets, mask):
        return self.layer[1](self.layer[0](x, buckets, mask))


class _Stack(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.block = nn.ModuleList(_Block(c) for _ in range(c.num_layers))
        self.final_layer_norm = Scale(c.d_model)


class TextEncoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.shared = nn.Embedding(c.vocab_size, c.d_model)
        self.encoder = _Stack(c)
        self.buckets = {}

    def forward(self, ids):
        """ids [batch, length], 0 behind each text -> [batch, length, d_model], zero behind each text."""
        valid = ids != 0
        mask = torch.where(valid, 0.0, -1e9)[:, None, None].float()
        key = (ids.shape[1], ids.device)
        if key not in self.buckets:
            self.buckets[key] = relative_buckets(ids.shape[1], self.config.relative_attention_num_buckets,
                                                 self.config.relative_attention_max_distance).to(ids.device)
        x = self.shared(ids)
        for block in self.encoder.block:
            x = block(x, self.buckets[key], mask)
        return self.encoder.final_layer_norm(x) * valid[..., None]


def train_tokenizer(sentences, prefix, pieces=640):
    """Write `prefix`.model: byte fallback, case folded, padding 0, end 1, unknown 2, as UMT5's."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=prefix, vocab_size=pieces, model_type="unigram", byte_fallback=True,
        character_coverage=1.0, hard_vocab_limit=False, normalization_rule_name="nmt_nfkc_cf", pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>", num_threads=1, minloglevel=1,
        required_chars="abcdefghijklmnopqrstuvwxyz0123456789.,;:'-!?")


class Tokenizer:
    def __init__(self, path):
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def __len__(self):
        return self.processor.vocab_size()

    def ids(self, texts, length):
        """int64 [text, length]: pieces, end, padding; at least one padding row is always left."""
        out = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, pieces in zip(out, self.processor.encode([" ".join(text.split()) for text in texts])):
            pieces = pieces[:length - 2] + [1]
            row[:len(pieces)] = torch.tensor(pieces)
        return out
