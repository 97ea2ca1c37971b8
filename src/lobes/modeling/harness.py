"""Tasks of lm-evaluation-harness on a causal language model as it is, scored as the harness does.

For each answer, a continuation w of a context x of tokens w₁ … w_n,

    log p(w | x) = Σ_j log p(w_j | x, w_1, …, w_{j-1})

A multiple-choice task's logits are these, divided by what the metric divides them by: their argmax
is the harness's prediction. A log-likelihood task asks whether greedy decoding gives w: its logits
are 0 and the smallest margin, over j, by which w_j is likelier than any other token. A task that
generates text is scored on the text (`generated`); its logits are those of the reference text.

The loss, from which importance is computed, is −log p(w | x) of the right answer, not divided.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lobes.errors import DataError, first_line
from lobes.modeling.causal import check_causal, load_causal, logits_at
from lobes.modeling.continuations import EncodedContinuations, TokenPair
from lobes.modeling.safe_loading import opening, quiet
from lobes.modeling.task_model import (
    Readable,
    TaskModel,
    TaskOutput,
    at_least_float32,
    check_texts,
    specs_of,
)
from lobes.tasks.generation import asked_of
from lobes.tasks.harness import TEXT, Continuation, continuations_of, harness, silent
from lobes.tasks.task import TaskSpec

Values = Float[Tensor, "batch continuations"]


@dataclass(frozen=True, slots=True)
class _Read:
    """Of every continuation of a batch its log-likelihood, margin, and whether there is one."""

    likelihoods: Values
    margins: Values
    there: Bool[Tensor, "batch continuations"]
    divisors: Values


class HarnessModel(TaskModel):
    """A causal language model and its tokenizer, for tasks of lm-evaluation-harness.

    `tasks` are those that `harness_task` makes. Texts become tokens as the harness makes them, and
    contexts are cut at their beginning to `max_length` tokens (None: what the harness takes, as
    many as the model has positions for). Nothing is trained.

    Raises `ConfigError` where lm_eval is not installed, and `ModelError` for a model that is no
    causal language model.
    """

    model: Any

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[TaskSpec],
        *,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.tasks = specs_of(tasks)
        check_texts(self.tasks, "lm-evaluation-harness is for texts")
        for spec in self.tasks:
            if spec.text != TEXT:
                raise DataError(
                    f"Task {spec.name!r} is none of lm-evaluation-harness: expected one that "
                    f"lobes.harness_task made; for others take lobes.PromptedModel."
                )
        self.model = model
        self.config = model.config
        self._read_with(model, tokenizer, None, max_length)
        self._given_length = max_length
        self.max_length = _encoder(self.config, tokenizer, max_length).max_length
        check_causal(model)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        tasks: Sequence[TaskSpec],
        *,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        dtype: torch.dtype = torch.float32,
        device_map: Any = None,
    ) -> "HarnessModel":
        """Load a causal language model and its tokenizer from a folder or the hub.

        `device_map` is that of transformers: "auto" spreads the model over all GPUs. Raises
        `ModelError` where there is none, or its checkpoint lacks weights.
        """
        model, tokenizer = load_causal(
            name_or_folder,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            device_map=device_map,
        )
        with opening(name_or_folder):
            return cls(model, tokenizer, tasks, max_length=max_length).eval()

    @property
    def input_names(self) -> tuple[str, ...]:
        """What discovery gives the forward pass: a sequence, whose last token is the answer."""
        return ("input_ids",)

    def forward(
        self,
        input_ids: Int[Tensor, "batch ..."],
        sizes: Int[Tensor, "batch sequences"] | None = None,
        targets: Int[Tensor, "batch continuations steps"] | None = None,
        sequence: Int[Tensor, "batch continuations"] | None = None,
        ends: Int[Tensor, "batch continuations"] | None = None,
        divisors: Float[Tensor, "batch continuations"] | None = None,
    ) -> TaskOutput:
        """Return every task's logits, {name: [batch, outputs]}, of what `encode` made.

        With `input_ids` [batch, length] alone the last token of each is its one continuation.
        """
        given = {"sizes": sizes, "targets": targets, "sequence": sequence, "ends": ends}
        inputs = {"input_ids": input_ids, **given, "divisors": divisors}
        found = self._read(_filled(inputs))
        return TaskOutput(logits={spec.name: _logits(found, spec) for spec in self.tasks})

    def task_logits(self, task: str, **inputs: Tensor | None) -> Float[Tensor, "batch outputs"]:
        """Return one task's logits."""
        return _logits(self._read(_filled(inputs)), self.spec(task))

    def losses(self, task: str, labels: Tensor, **inputs: Tensor | None) -> Float[Tensor, " batch"]:
        """Return minus the log-likelihood of each example's right answer."""
        likelihoods = self._read(_filled(inputs)).likelihoods
        if self.spec(task).metric in ("greedy", "generated"):
            return -likelihoods[:, 0]
        return -likelihoods.gather(1, labels[:, None])[:, 0]

    def generates(self, task: str) -> bool:
        """Return whether the task is one of the harness's that generate text."""
        return self.spec(task).metric == "generated"

    def generated(
        self, task: str, examples: Readable, sequences: int
    ) -> Float[np.ndarray, " examples"]:
        """Return the value that the harness's metric gives to the text generated for each example.

        The harness's own code runs `generate` on so many `sequences` at once, cuts the texts at the
        stop strings and scores them. Raises `DataError` where the task's code fails.
        """
        asked = [asked_of(texts) for texts in examples.texts]
        judge = asked[0][0]
        prompts = (texts[0] for texts in examples.texts)
        requests = [
            SimpleNamespace(args=(prompt, judge.kwargs[document]))
            for prompt, (_, document) in zip(prompts, asked, strict=True)
        ]
        with quiet(), silent():
            runner = _generator(self.model, self.tokenizer, self._given_length, sequences)
            try:
                texts = runner.generate_until(requests, disable_tqdm=True)
            except (ValueError, TypeError, AssertionError) as error:
                raise DataError(
                    f"The harness cannot let the model generate text for {judge.name!r}, and says: "
                    f"{first_line(error)}. Check the generation_kwargs of the task's file."
                ) from error
        return judge.values([document for _, document in asked], texts)

    def copies(self, task: str, inputs: Mapping[str, Tensor | None]) -> int:
        """Return how many sequences the batch has for each example."""
        return _filled(inputs)["input_ids"].shape[1]

    def real(
        self, task: str, inputs: Mapping[str, Tensor | None]
    ) -> Bool[Tensor, "batch positions"]:
        """Return the mask of the positions that any of an example's sequences has."""
        return _within(_filled(inputs)).any(1)

    def real_rows(
        self, task: str, inputs: Mapping[str, Tensor | None]
    ) -> Bool[Tensor, "sequences positions"]:
        """Return the mask of each sequence's own positions."""
        return _within(_filled(inputs)).flatten(0, 1)

    def encode(self, task: str, examples: Readable) -> EncodedContinuations:
        """Encode the contexts and continuations of a task's examples as the harness does."""
        each = [continuations_of(texts) for texts in examples.texts]
        encoder = _encoder(self.config, self.tokenizer, self._given_length)
        if self.generates(task):
            self._check_room(task, examples, encoder.max_gen_toks)
        pairs = _pairs(encoder, [one for some in each for one in some])
        found, start = [], 0
        for number, some in enumerate(each):
            found.append(pairs[start : start + len(some)])
            start += len(some)
            for pair in found[-1]:
                if not 0 < len(pair.target) <= len(pair.read):
                    raise DataError(
                        f"Task {task!r}: example {number} has an answer of {len(pair.target)} "
                        f"tokens, and the model reads at most {self.max_length}: expected 1 or "
                        f"more, and no more than that."
                    )
        return EncodedContinuations.of(found)

    def _check_room(self, task: str, examples: Readable, default: int) -> None:
        """Raise `DataError` where the texts to generate leave no room for a prompt."""
        for judge, document in map(asked_of, examples.texts):
            if (tokens := judge.longest(document, default)) >= self.max_length:
                raise DataError(
                    f"Task {task!r} lets the model generate {tokens} tokens, and it reads at most "
                    f"{self.max_length}: give a smaller max_gen_toks in the generation_kwargs of a "
                    f"copy of the task's file."
                )

    def _read(self, inputs: Mapping[str, Tensor]) -> _Read:
        """Run the model, and read off the continuations' log-likelihoods."""
        ids, targets, ends = inputs["input_ids"], inputs["targets"], inputs["ends"]
        is_target = targets >= 0
        steps = torch.arange(targets.shape[2], device=ids.device)
        places = (ends - is_target.sum(2))[..., None] + steps  # whose logits tell of a target
        rows = torch.arange(len(ids), device=ids.device)[:, None] * ids.shape[1]
        rows = (rows + inputs["sequence"])[..., None].expand_as(places)
        logits, kept = logits_at(self.model, places[is_target], ids.flatten(0, 1))
        at = torch.searchsorted(kept, places[is_target])
        tokens = at_least_float32(logits[rows[is_target], at]).log_softmax(-1)
        wanted = targets[is_target][:, None]
        likely = tokens.gather(1, wanted)[:, 0]
        spread = torch.zeros(targets.shape, dtype=likely.dtype, device=likely.device)
        sums = spread.masked_scatter(is_target, likely).sum(2)
        margins = torch.full_like(spread, torch.inf)
        if any(spec.metric == "greedy" for spec in self.tasks):
            margins = margins.masked_scatter(is_target, _margins(tokens.detach(), wanted))
        return _Read(sums, margins.amin(2), is_target.any(2), inputs["divisors"])


def _margins(
    tokens: Float[Tensor, "steps vocabulary"], wanted: Int[Tensor, "steps one"]
) -> Float[Tensor, " steps"]:
    """By how much each wanted token is likelier than any other; above 0 where argmax gives it."""
    others = tokens.scatter(1, wanted, -torch.inf).amax(1)
    margin = tokens.gather(1, wanted)[:, 0] - others
    is_first = tokens.argmax(1) == wanted[:, 0]  # of equals the first one is taken
    least = torch.finfo(margin.dtype).tiny
    return torch.where(is_first, margin.clamp(min=least), margin.clamp(max=0))


def _logits(found: _Read, spec: TaskSpec) -> Float[Tensor, "batch outputs"]:
    if spec.metric == "greedy":
        return torch.stack([torch.zeros_like(found.margins[:, 0]), found.margins[:, 0]], 1)
    if spec.metric == "generated":
        return found.likelihoods[:, :1]
    # an answer that an example lacks is less likely than those that it has
    scores = found.likelihoods / found.divisors
    lowest = scores.detach().masked_fill(~found.there, torch.inf).amin(1, keepdim=True) - 1
    scores = torch.where(found.there, scores, lowest)[:, : spec.n_outputs]
    lacking = lowest.expand(-1, spec.n_outputs - scores.shape[1])
    return torch.cat([scores, lacking], 1)


def _filled(inputs: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """The inputs, where there are only token ids with the last token as the continuation."""
    given = {name: each for name, each in inputs.items() if each is not None}
    if "targets" in given:
        return given
    ids = given["input_ids"]
    one = torch.ones_like(ids[:, :1])
    return {
        "input_ids": ids[:, None, :-1],
        "sizes": one * (ids.shape[1] - 1),
        "targets": ids[:, None, -1:],
        "sequence": 0 * one,
        "ends": one * (ids.shape[1] - 1),
        "divisors": one.float(),
    }


def _within(inputs: Mapping[str, Tensor]) -> Bool[Tensor, "batch sequences positions"]:
    ids = inputs["input_ids"]
    return torch.arange(ids.shape[2], device=ids.device) < inputs["sizes"][..., None]


def _pairs(encoder: Any, continuations: Sequence[Continuation]) -> list[TokenPair]:
    """The tokens of continuations, cut as the harness cuts them."""
    requests = [SimpleNamespace(args=(each.context, each.text)) for each in continuations]
    with quiet(), silent():
        encoder.loglikelihood(requests, disable_tqdm=True)
    return [
        TokenPair(tuple([*context, *target][-(encoder.max_length + 1) :][:-1]), tuple(target), n)
        for (_, context, target), n in zip(
            encoder.found, (each.length for each in continuations), strict=True
        )
    ]


def _encoder(config: Any, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Any:
    """The harness's own model of transformers without the model: it only makes tokens."""
    with quiet(), silent():
        return _encoder_class()(
            pretrained=SimpleNamespace(device=torch.device("cpu"), config=config),
            tokenizer=tokenizer,
            max_length=max_length,
            backend="causal",
        )


def _generator(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_length: int | None, sequences: int
) -> Any:
    """The harness's own model of transformers, which generates so many texts at once."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        max_length=max_length,
        batch_size=sequences,
        backend="causal",
    )


@cache
def _encoder_class() -> Any:
    harness()
    from lm_eval.models.huggingface import HFLM

    class Encoder(HFLM):
        """Keeps the tokens that the model would be run on."""

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            self.found = list(requests)
            return [(0.0, False)] * len(self.found)

    return Encoder
