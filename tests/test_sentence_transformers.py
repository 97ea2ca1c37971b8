"""Models of sentence-transformers: bi-encoders and cross-encoders, found, ablated and pruned."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

import lobes
from lobes.heads import HeadSet
from tiny_tasks import tiny_tokenizer

library = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
HEADS = HeadSet.parse("0:1 1:2")
TEXTS = ["a good film", "bad", "the music was fine today"]
PAIRS = [("a good film", "the music"), ("bad", "fine")]


def saved_encoder(cls, folder):
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=15,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=7,
        max_position_embeddings=53,
        initializer_range=0.3,
        num_labels=1,
    )
    cls(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["encoder", "cross-encoder"])
def built(request, tmp_path_factory):
    """A function that builds the model, and one that says what it answers."""
    folder = tmp_path_factory.mktemp("model")
    if request.param == "cross-encoder":
        path = saved_encoder(BertForSequenceClassification, folder)
        return (
            lambda: library.CrossEncoder(path, device="cpu"),
            lambda model: model.predict(PAIRS, show_progress_bar=False),
        )
    path = saved_encoder(BertModel, folder)

    def build():
        parts = [modules.Transformer(path), modules.Pooling(15)]
        return library.SentenceTransformer(modules=parts, device="cpu")

    return build, lambda model: model.encode(TEXTS, show_progress_bar=False)


def test_heads_are_found_ablated_and_pruned(built, tmp_path):
    build, answer = built
    model = build()
    assert lobes.find_heads(model).shape == (2, 5)
    plain = answer(model)
    with lobes.ablate(model, HEADS):
        ablated = answer(model)
    assert np.abs(ablated - plain).max() > 1e-3
    np.testing.assert_array_equal(answer(model), plain)
    smaller = lobes.prune(model, HEADS)
    np.testing.assert_allclose(answer(smaller), ablated, atol=1e-5)
    np.testing.assert_array_equal(answer(model), plain)
    # what docs/pruning.md says of loading
    smaller.save_pretrained(str(tmp_path / "small"))
    loaded = build()
    loaded[0].model = lobes.load_pruned(tmp_path / "small")
    np.testing.assert_allclose(answer(loaded), answer(smaller), rtol=1e-5)


def test_importance_and_lesions_of_a_sentence_encoder(built):
    build, _ = built
    model = build()
    texts = PAIRS if hasattr(model, "predict") else TEXTS

    def loss(outputs, batch):
        name = "scores" if "scores" in outputs else "sentence_embedding"
        return outputs[name].flatten(1).square().sum(1)

    batches = [{"input": dict(model.preprocess(texts))}]
    scores = lobes.head_importance(model, batches=batches, loss=loss)
    assert scores.values.shape == (2, 5)
    assert np.abs(scores.values).min() > 0
    task = lobes.BatchTask("size", loss=loss, validation=batches)
    base, ablated = lobes.evaluate(model, task, [HeadSet(), HEADS]).predictions("size")
    with torch.no_grad():
        np.testing.assert_allclose(-base, loss(model(**batches[0]), None), rtol=1e-5)
    assert np.abs(base - ablated).max() > 1e-4
