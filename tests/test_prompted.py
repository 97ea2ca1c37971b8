"""Prompted tasks equal a plain loop over examples and labels, and go through the whole of IAP."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lobes.ablation import HeadSamples, ablate, record_contexts
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError, ModelError
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate
from lobes.measure.iap import lesion_matrix
from lobes.measure.importance import head_importance
from lobes.measure.resampling import partners_of
from lobes.modeling import PromptedModel
from lobes.tasks.prompts import Prompt
from lobes.tasks.sources import Split
from lobes.tasks.task import Task
from tiny_tasks import VOCABULARY, mood_task, pair_task, tiny_tokenizer, topic_task, warmth_task

MOOD = Prompt("with {text} it was", ["dull", "fine"])
# "so" is read once for two words, "by the" for one, and "one" needs no more than the prompt
TOPIC = Prompt("{text} then that was", ["so salt", "by the wave", "one"])
LONG = Prompt("that {text} was", ["so awful", "so merry", "by the star"])


def unlabeled(*texts):
    return Split(texts, None)


CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=15, n_head=5, n_layer=3, n_positions=67
    ),
    "llama": lambda: transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=29,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=67,
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=15, n_head=5, n_layer=2
    ),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=15,
        word_embed_proj_dim=15,
        ffn_dim=29,
        num_attention_heads=5,
        num_hidden_layers=2,
        max_position_embeddings=67,
        pad_token_id=0,
    ),
}


def decoder(name="gpt2"):
    """A tiny language model whose weights are large enough to have opinions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def prompted(name="gpt2", *, prompts=None, **options):
    tasks = [mood_task(29, 23), topic_task(31, 19)]
    prompts = prompts or {"mood": MOOD, "topic": TOPIC}
    tasks = [task for task in tasks if task.name in prompts]
    return PromptedModel(decoder(name), tiny_tokenizer(), tasks, prompts, **options), tasks


def test_a_dictionary_gives_each_label_its_word_in_any_order():
    words = {"good": "fine", "bad": "dull"}
    turned, _ = prompted(prompts={"mood": Prompt(MOOD.template, words)})
    plain, _ = prompted(prompts={"mood": MOOD})
    assert turned.words == plain.words
    assert turned.prompts["mood"].words == ("dull", "fine")


def sequences(prompt, spec, texts):
    """The ids of one example's prompt, and of each word, by the tokenizer alone."""
    tokenizer = tiny_tokenizer()
    filled = prompt.template
    for column, text in zip(spec.text, texts, strict=True):
        filled = filled.replace("{" + column + "}", text)
    ids = tokenizer(filled, add_special_tokens=False)["input_ids"]
    words = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in prompt.words]
    return [tokenizer.cls_token_id, *ids], words


def plain_score(model, ids, word):
    """log p(word | prompt) from one full forward pass."""
    logs = model(torch.tensor([ids + word])).logits[0].log_softmax(-1)
    return sum(logs[len(ids) - 1 + j, token] for j, token in enumerate(word))


def plain_scores(model, prompt, spec, examples):
    rows = []
    with torch.no_grad():
        for texts in examples.texts:
            ids, words = sequences(prompt, spec, texts)
            rows.append([plain_score(model, ids, word).item() for word in words])
    return np.array(rows)


def plain_importance(model, prompt, task):
    """Importance (docs/method.md#importance) with a run for each label, position by position."""
    layout = find_heads(model)
    longest = max(len(words.split()) for words in prompt.words) - 1
    totals, tokens = np.zeros(layout.shape), 0
    seen = {site.index: [] for site in layout.sites}
    for site in layout.sites:
        model.get_submodule(site.projection).register_forward_pre_hook(
            lambda _, args, site=site.index: seen[site].append(args[0])
        )
    for texts, label in zip(task.train.texts, task.train.labels, strict=True):
        ids, words = sequences(prompt, task.spec, texts)
        for calls in seen.values():
            calls.clear()
        scores = torch.stack([plain_score(model, ids, word) for word in words])
        loss = scores.exp().sum().log() - scores[label]
        tokens += len(ids) + longest
        for site in layout.sites:
            gradients = torch.autograd.grad(loss, seen[site.index], retain_graph=True)
            # the word's last token is no input of its score, so its position has no gradient
            terms = torch.zeros(len(ids) + longest + 1, site.n_heads)
            for context, gradient in zip(seen[site.index], gradients, strict=True):
                own = (context * gradient)[0].unflatten(-1, (site.n_heads, -1)).sum(-1)
                terms[: len(own)] += own.detach()
            totals[site.index] += terms.abs().sum(0).numpy()
    return totals / tokens


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("prompts", [{"mood": MOOD}, {"mood": MOOD, "topic": TOPIC}])
def test_logits_equal_a_loop_over_examples_and_labels(name, prompts):
    model, tasks = prompted(name, prompts=prompts)
    found = evaluate(model, tasks, tokens_per_batch=97)
    for task in tasks:
        expected = plain_scores(model.model, prompts[task.name], task.spec, task.validation)
        np.testing.assert_allclose(found.logits[task.name][0], expected, rtol=1e-4, atol=1e-4)
        assert np.ptp(expected, axis=0).min() > 0.1


def test_lesions_equal_a_loop_under_the_same_lesion():
    model, tasks = prompted("llama")
    lesion = HeadSet([(0, 1), (2, 3)])
    found = evaluate(model, tasks, [HeadSet(), lesion])
    with ablate(model, lesion):
        for task, prompt in zip(tasks, (MOOD, TOPIC), strict=True):
            expected = plain_scores(model.model, prompt, task.spec, task.validation)
            np.testing.assert_allclose(found.logits[task.name][1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", ["mean", "resample"])
def test_other_values_are_of_every_copy_of_a_prompt(value):
    """A copy's context gives way to the same copy's of another example."""
    model, tasks = prompted("llama")
    lesion = HeadSet([(0, 1), (2, 3)])
    found = evaluate(model, tasks, [lesion], value=value, seed=2)
    for task in tasks:
        encoded = model.encode(task.name, task.validation)
        inputs, number = encoded.distinct()
        runs = [
            partial(model.task_logits, task.name, **inputs.collate([i])) for i in range(len(inputs))
        ]
        contexts = []
        with torch.no_grad(), record_contexts(model) as record:
            for run in runs:
                record.clear()
                run()
                contexts.append([calls[0] for calls in record.calls])
        means = [
            torch.cat([contexts[i][site].flatten(0, 1) for i in number]).mean(0)
            for site in range(3)
        ]
        partners = partners_of(inputs.lengths, seed=2)
        rows = []
        for i, run in enumerate(runs):
            calls = []
            for mean, own, other in zip(means, contexts[i], contexts[partners[i]], strict=True):
                fill = mean.expand_as(own).clone()
                if value == "resample":
                    common = min(own.shape[1], other.shape[1])
                    fill[:, :common] = other[:, :common]
                calls.append((fill,))
            samples = HeadSamples(tuple(calls))
            with torch.no_grad(), ablate(model, lesion, value="resample", data=samples):
                rows.append(run()[0].numpy())
        expected = np.stack(rows)[number]
        np.testing.assert_allclose(found.logits[task.name][0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_padding_on_either_side_changes_nothing(name):
    model, tasks = prompted(name)
    encoded = model.encode("topic", unlabeled(*tasks[1].validation.texts[:3]))
    rows = [encoded.select(np.array([i])).input_ids.tolist() for i in range(3)]
    width = max(map(len, rows)) + 2
    expected = [model.logits(input_ids=torch.tensor([row]))["topic"][0] for row in rows]
    for side in ("left", "right"):
        padded = [[0] * (width - len(row)) for row in rows]
        ids = [p + r if side == "left" else r + p for r, p in zip(rows, padded, strict=True)]
        ones = [[1] * len(row) for row in rows]
        mask = [p + o if side == "left" else o + p for o, p in zip(ones, padded, strict=True)]
        found = model.logits(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
        torch.testing.assert_close(found["topic"], torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("prompt", [TOPIC, LONG])
def test_importance_equals_its_definition_over_runs_of_each_label(name, prompt):
    model, (task,) = prompted(name, prompts={"topic": prompt})
    expected = plain_importance(deepcopy(model.model), prompt, task)
    for budget in (61, 500):
        found = head_importance(model, task, aggregate="token", tokens_per_batch=budget)
        np.testing.assert_allclose(found.values, expected, rtol=2e-3, atol=1e-7)


def test_importance_does_not_depend_on_the_other_tasks_words():
    model, (mood, _) = prompted("llama")
    alone, _ = prompted("llama", prompts={"mood": MOOD})
    np.testing.assert_allclose(
        head_importance(model, mood).values, head_importance(alone, mood).values, rtol=1e-5
    )


def test_half_precision_stays_near():
    model, tasks = prompted("llama")
    full, half = (evaluate(model, tasks, precision=p) for p in ("fp32", "bf16"))
    for name in full.logits:
        np.testing.assert_allclose(half.logits[name], full.logits[name], atol=0.3)
        assert np.abs(half.logits[name] - full.logits[name]).max() > 1e-4


def test_words_of_several_tokens_share_the_copies_that_hold_their_beginnings():
    model, _ = prompted(prompts={"topic": LONG})
    assert model.copies("topic", {}) == 2
    assert prompted(prompts={"mood": MOOD})[0].copies("mood", {}) == 1
    one = Prompt("{text} was", ["so salt", "one", "wave"])
    assert prompted(prompts={"topic": one})[0].copies("topic", {}) == 1


def test_the_lesion_matrix_of_prompted_tasks():
    model, tasks = prompted("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    matrix = lesion_matrix(model, tasks, fractions=[0.3], controls=2, importance_examples=17)
    assert matrix.tasks == ("mood", "topic")
    assert matrix.scores(0.3).shape == (2, 2)
    plain = plain_scores(model.model, TOPIC, tasks[1].spec, tasks[1].validation).argmax(1)
    assert matrix.base[1] == (plain == tasks[1].validation.labels).mean()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_exact_scores_of_each_heads_ablation():
    model, (task,) = prompted("gpt2", prompts={"topic": TOPIC})
    found = head_importance(model, task, method="ablation")

    def loss():
        scores = plain_scores(model.model, TOPIC, task.spec, task.train)
        return (np.logaddexp.reduce(scores, 1) - scores[range(31), task.train.labels]).mean()

    plain = loss()
    with ablate(model, HeadSet([(1, 2)])):
        assert loss() - plain == pytest.approx(found.values[1, 2], abs=1e-4)


def test_long_texts_are_cut_and_the_template_stays():
    model, _ = prompted(prompts={"topic": TOPIC}, max_length=13)
    tokenizer = tiny_tokenizer()
    text = "bread soup a the of and was with that then by so it one"
    ids = model.encode("topic", unlabeled((text,), ("salt",)))
    rows = [ids.select(np.array([i])).input_ids.tolist() for i in (0, 1)]
    # 13 less two tokens of "by the wave", which are read beyond the prompt
    assert len(rows[0]) == 11
    assert tokenizer.decode(rows[0]) == "[CLS] bread soup a the of and was then that was"
    assert tokenizer.decode(rows[1]) == "[CLS] salt then that was"


def test_of_a_pair_the_longer_text_is_cut():
    prompt = Prompt("{text} then {other} was", ["sad", "fine"])
    task = pair_task()
    model = PromptedModel(decoder(), tiny_tokenizer(), [task], {task.name: prompt}, max_length=9)
    ids = model.encode(task.name, unlabeled(("a the of and was with that", "salt star")))
    assert tiny_tokenizer().decode(ids.input_ids) == "[CLS] a the of and then salt star was"


def test_an_example_without_any_token():
    model = byte_model("{text}")
    with pytest.raises(DataError, match=r"Example 1 has no tokens"):
        model.encode("mood", unlabeled(("it was",), ("",)))
    # all room is taken by "it was so", which is read to score its next word
    words = ["it was so fine", "dull"]
    longest = len(byte_model("{text}", words).words["mood"][0])
    with pytest.raises(ConfigError, match="leaves 0: shorten it"):
        byte_model("{text}", words, max_length=longest - 1)


def byte_tokenizer():
    """A byte-level tokenizer, in which a space belongs to the word after it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    corpus = [" it was fine", " it was dull", " so fine it was"] * 5
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def byte_model(template, words=("dull", "fine"), **options):
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=300, n_embd=10, n_head=2, n_layer=1, n_positions=67)
    )
    prompt = Prompt(template, words)
    return PromptedModel(model, byte_tokenizer(), [mood_task()], {"mood": prompt}, **options)


def test_words_follow_with_a_space_or_on_a_line_of_their_own():
    tokenizer = byte_tokenizer()
    words = byte_model("{text} it was").words["mood"]
    assert [tokenizer.decode(word) for word in words] == [" dull", " fine"]
    words = byte_model("{text} it was:\n").words["mood"]
    assert [tokenizer.decode(word) for word in words] == ["dull", "fine"]
    with pytest.raises(ConfigError, match="end the template without a space"):
        byte_model("{text} it was ")


def test_a_tokenizer_that_marks_the_beginnings_of_words():
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<unk>"], show_progress=False
    )
    inner.train_from_iterator(["a it was fine", "a it was dull"] * 3, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<s>")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=300, n_embd=10, n_head=2, n_layer=1, n_positions=67)
    )
    prompts = {"mood": Prompt("{text} it was", ["dull", "fine"])}
    prompted = PromptedModel(model, tokenizer, [mood_task()], prompts)
    words = [tokenizer.convert_ids_to_tokens(word) for word in prompted.words["mood"]]
    assert words == [["▁dull"], ["▁fine"]]
    whole = tokenizer("a it was fine")["input_ids"]
    (ids,) = prompted.encode("mood", unlabeled(("a",))).input_ids[None].tolist()
    assert [*ids, *prompted.words["mood"][1]] == whole


def test_texts_may_hold_braces():
    assert Prompt("{{{text}}}: {text}", ["a", "b"]).fill({"text": "{o} {"}) == "{{o} {}: {o} {"


@pytest.mark.parametrize(
    ("template", "words", "sentence"),
    [
        ("Review", ["a", "b"], "The template 'Review' has no column"),
        ("", ["a", "b"], "has no column"),
        ("{text", ["a", "b"], "cannot be read"),
        ("{}", ["a", "b"], "no column's name alone"),
        ("{text!r}", ["a", "b"], "no column's name alone"),
        ("{text:>3}", ["a", "b"], "no column's name alone"),
        ("{text}", ["a"], "expected one for each label, two or more"),
        ("{text}", ["a", " "], "the word ' '"),
        ("{text}", ["a", "b", "a "], "for two labels"),
    ],
)
def test_impossible_prompts(template, words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Prompt(template, words)


@pytest.mark.parametrize(
    ("task", "prompts", "sentence"),
    [
        (mood_task(), {"mood": Prompt("{txt}", ["so", "it"])}, r"\{txt\}.*Did you mean 'text'"),
        (mood_task(), {"mood": Prompt("{text}", ["so", "it", "one"])}, "3 words .* for 2 labels"),
        (warmth_task(), {"warmth": MOOD}, "is a regression"),
        (mood_task(), {}, "Task 'mood' has no prompt"),
        (mood_task(), {"mood": MOOD, "topic": TOPIC}, "a prompt for 'topic', but no such task"),
        (mood_task(), {"mood": Prompt("{text}", ["good", "it"])}, "does not know the word 'good'"),
        (mood_task(), {"mood": Prompt("{text}", ["so", "so it"])}, "'so it' begin with all those"),
        (mood_task(), {"mood": Prompt("{text}", ["so it", "so  it"])}, "begin with all those"),
    ],
)
def test_prompts_that_do_not_fit(task, prompts, sentence):
    with pytest.raises(ConfigError, match=sentence):
        PromptedModel(decoder(), tiny_tokenizer(), [task], prompts)


def test_a_template_that_fills_the_model():
    model, (task,) = prompted(prompts={"topic": TOPIC}, max_length=6)
    with pytest.raises(ConfigError, match="the template takes 3 tokens without a text"):
        head_importance(prompted(prompts={"topic": TOPIC}, max_length=5)[0], task)
    assert model.encode("topic", unlabeled(("soup salt",))).lengths.tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (transformers.BertForMaskedLM, "sees later tokens"),
        (transformers.BertModel, "no logits over its vocabulary"),
    ],
)
def test_models_that_are_no_causal_language_models(kind, sentence):
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=10,
        intermediate_size=11,
        num_attention_heads=2,
        num_hidden_layers=1,
    )
    with pytest.raises(ModelError, match=sentence):
        PromptedModel(kind(config), tiny_tokenizer(), [mood_task()], {"mood": MOOD})


def test_from_a_folder(tmp_path):
    decoder("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    task: Task = mood_task(29, 23)
    model = PromptedModel.from_pretrained(tmp_path, [task], {"mood": MOOD})
    expected, _ = prompted("llama", prompts={"mood": MOOD})
    ids = torch.tensor([[1, 5, 8]])
    assert torch.equal(model.logits(input_ids=ids)["mood"], expected.logits(input_ids=ids)["mood"])
    transformers.AutoModel.from_config(CONFIGS["llama"]()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no causal language model"):
        PromptedModel.from_pretrained(tmp_path, [task], {"mood": MOOD})
