"""Small models in which we know which heads carry which task, since we wrote their weights.

A sentence has one word for each feature; the word's embedding holds the feature's level. A head
reads one feature (its value projection selects it), attends almost evenly, and writes it into the
residual stream; a task's classifier sums what its heads wrote. So a task depends on exactly the
heads that read its features.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from lobes.heads import Head
from lobes.modeling import MultiTaskModel
from lobes.tasks.task import Task

LEVELS = (-3, -2, -1, 1, 2, 3)


class PlantedAttention(nn.Module):
    """Attention of `n_heads` heads of size 3 over a residual stream of `width` channels."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value = (nn.Linear(width, 3 * n_heads) for _ in range(3))
        self.output = nn.Linear(3 * n_heads, width)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.n_heads, 3)).transpose(1, 2)

        allowed = None if mask is None else mask[:, None, None, :].bool()
        contexts = nn.functional.scaled_dot_product_attention(
            split(self.query(hidden)),
            split(self.key(hidden)),
            split(self.value(hidden)),
            attn_mask=allowed,
        )
        return self.output(contexts.transpose(1, 2).flatten(2))


class PlantedEncoder(nn.Module):
    """An embedding of features and one attention block after the other, each added on.

    The stream has a channel for each feature, which only the embedding writes, and one for each
    head, which only that head writes: channel `n_features + number of the head`.
    """

    def __init__(self, n_features: int, n_sites: int, n_heads: int, vocabulary: int) -> None:
        super().__init__()
        width = n_features + n_sites * n_heads
        self.config = SimpleNamespace(
            hidden_size=width, vocab_size=vocabulary, model_type="planted", is_decoder=False
        )
        self.embedding = nn.Embedding(vocabulary, width)
        self.sites = nn.ModuleList(PlantedAttention(width, n_heads) for _ in range(n_sites))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        hidden = self.embedding(input_ids)
        for site in self.sites:
            hidden = hidden + site(hidden, attention_mask)
        return SimpleNamespace(last_hidden_state=hidden)


def planted_tokenizer(n_features: int) -> PreTrainedTokenizerFast:
    """One word for each level of each feature (`f2+3`), between [CLS] and nothing."""
    words = ["[PAD]", "[CLS]", "[UNK]"]
    words += [f"f{feature}{level:+d}" for feature in range(n_features) for level in LEVELS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        cls_token="[CLS]",
        unk_token="[UNK]",
        model_max_length=53,
        model_input_names=["input_ids", "attention_mask"],
    )


def planted_model(
    tasks: Sequence[Task],
    reads: Mapping[Head, int],
    carries: Mapping[str, Sequence[Head]],
    *,
    n_features: int,
    n_sites: int,
    n_heads: int,
    seed: int = 0,
) -> MultiTaskModel:
    """`reads[head]` is the feature that a head reads; `carries[task]` the heads that decide it."""
    tokenizer = planted_tokenizer(n_features)
    generator = torch.Generator().manual_seed(seed)
    encoder = PlantedEncoder(n_features, n_sites, n_heads, len(tokenizer))
    model = MultiTaskModel(encoder, tokenizer, tasks, pooling="first", dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for feature in range(n_features):
            for place, level in enumerate(LEVELS):
                encoder.embedding.weight[3 + feature * len(LEVELS) + place, feature] = level
        for index, site in enumerate(encoder.sites):
            for projection in (site.query, site.key):
                noise = torch.randn(projection.weight.shape, generator=generator)
                projection.weight.copy_(0.01 * noise)
            for head in range(n_heads):
                site.value.weight[3 * head, reads[index, head]] = 1.0
                site.output.weight[n_features + index * n_heads + head, 3 * head] = 1.0
        for task in tasks:
            classifier = model.classifiers[task.name]
            for index, head in carries[task.name]:
                channel = n_features + index * n_heads + head
                # The last row is the positive class, or a regression's only output.
                classifier.weight[-1, channel] = 3.0
    return model.eval()


def planted_levels(
    n: int, n_features: int, generator: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """`n` sentences with a word for each feature in random order, and the levels [n, features]."""
    levels = generator.choice(LEVELS, size=(n, n_features))
    sentences = []
    for row in levels:
        words = [f"f{feature}{level:+d}" for feature, level in enumerate(row)]
        generator.shuffle(words)
        sentences.append(" ".join(words))
    return sentences, levels
