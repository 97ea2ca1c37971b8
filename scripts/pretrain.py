"""Pre-train a small BERT encoder from scratch on the texts of known tasks: what lobes finds in a
model without much pre-training.

    python scripts/pretrain.py --minutes 60 runs/scratch-bert

Texts come from the training splits that LOBES_DATA (or --data-dir) has, each text once; 2 % of them
are held out. A WordPiece tokenizer is trained on the others, then an encoder of 4 layers of 8 heads
with masked-language modelling. The learning rate falls to 0 over --steps or --minutes, whichever
ends first. With --minutes 0 the result is repeatable on one machine, given the tokenizer of an
earlier training in OUT: `tokenizers` numbers its tokens in another order each time. The same
command continues a training that was killed. OUT becomes a folder that lobes and transformers load,
and that holds `pretraining.json`: steps, tokens, held-out loss in nats for each masked token.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from lobes.errors import DataError
from lobes.files import writing
from lobes.modeling.precision import resolve_precision
from lobes.tasks.sources import load_task

TASKS = ("imdb", "ag", "sst2", "qqp", "qnli", "mnli", "snli", "rte", "mrpc", "stsb", "cola")
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY, LENGTH, HIDDEN, LAYERS, HEADS = 8192, 128, 256, 4, 8
HELD_OUT, HELD_OUT_BLOCKS = 0.02, 256
BATCH, RATE, WARM_UP, CLIP = 32, 1e-3, 0.03, 1.0
MASKED, REPLACED, RANDOM = 0.15, 0.8, 0.1
SAVE_EVERY, TELL_EVERY = 120.0, 250  # seconds, steps
CHECKPOINT, RECORD = "checkpoint.pt", "pretraining.json"


def texts_of(data_dir: str | None) -> list[str]:
    """Return every different text of the training splits that are there, in a fixed order."""
    found: dict[str, None] = {}
    for name in TASKS:
        try:
            task = load_task(name, data_dir=data_dir)
        except DataError as error:
            print(f"Without {name}: {error}")
            continue
        if task.train is not None:
            found.update(dict.fromkeys(text for texts in task.train.texts for text in texts))
    if not found:
        raise SystemExit("No training data were found: name their folder with --data-dir.")
    return list(found)


def trained_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer as BERT's, trained on the texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(
        (SPECIAL["sep"], SEP), (SPECIAL["cls"], CLS)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in SPECIAL.items()},
    )


def blocks_of(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Return the texts' tokens in a row, cut into blocks: token ids [blocks, LENGTH]."""
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    row = np.array([token for each in encoded for token in (*each.ids, SEP)], dtype=np.int64)
    inner = row[: len(row) // (LENGTH - 2) * (LENGTH - 2)].reshape(-1, LENGTH - 2)
    return np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (CLS, SEP)))


def masked(blocks: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs, and which of their tokens are to be predicted, as BERT draws them."""
    chosen = (generator.random(blocks.shape) < MASKED) & (blocks > MASK)
    how = generator.random(blocks.shape)
    inputs = np.where(chosen & (how < REPLACED), MASK, blocks)
    others = generator.integers(MASK + 1, blocks.max() + 1, blocks.shape)
    changed = chosen & (how >= REPLACED) & (how < REPLACED + RANDOM)
    return np.where(changed, others, inputs), chosen


def loss_of(model: BertForMaskedLM, blocks: np.ndarray, generator: np.random.Generator) -> Tensor:
    """Return the mean loss of the masked tokens in nats, predicted at their places only."""
    inputs, chosen = (torch.tensor(each, device=model.device) for each in masked(blocks, generator))
    targets = torch.tensor(blocks, device=model.device)[chosen]
    precision = resolve_precision("auto", model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
        states = model.bert(input_ids=inputs).last_hidden_state[chosen]
        logits = model.cls(states)
    return torch.nn.functional.cross_entropy(logits.float(), targets)


@torch.no_grad()
def held_out_loss(model: BertForMaskedLM, blocks: np.ndarray) -> float:
    """Return the loss of held-out blocks, always under the same masks."""
    generator = np.random.default_rng(0)
    model.eval()
    parts = [blocks[start : start + BATCH] for start in range(0, len(blocks), BATCH)]
    losses = [float(loss_of(model, part, generator)) for part in parts]
    model.train()
    return float(np.average(losses, weights=list(map(len, parts))))


def batches(blocks: np.ndarray, seed: int, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (step, blocks) from step `first` on; an epoch's order depends on seed and epoch."""
    size = min(BATCH, len(blocks))
    each = len(blocks) // size
    step = first
    while True:
        order = np.random.default_rng([seed, step // each]).permutation(len(blocks))
        for place in range(step % each, each):
            yield step, blocks[order[place * size : (place + 1) * size]]
            step += 1


def pretrain(args: argparse.Namespace, train: np.ndarray, held_out: np.ndarray) -> dict:
    """Train until the steps or the minutes are over, write the model, and return the record."""
    torch.manual_seed(args.seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=LENGTH,
    )
    model = BertForMaskedLM(config).to("cuda" if torch.cuda.is_available() else "cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    first, before, losses = 0, 0.0, {}
    if (args.out / CHECKPOINT).exists():
        stored = torch.load(args.out / CHECKPOINT, weights_only=True, map_location=model.device)
        model.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        first, before, losses = stored["step"], stored["seconds"], stored["held_out_loss"]
        print(f"Continuing at step {first} after {before / 60:.1f} minutes.")
    begun = saved = time.monotonic()
    limit = 60 * args.minutes

    def seconds() -> float:
        return before + time.monotonic() - begun

    for step, blocks in batches(train, args.seed, first):
        done = max(step / args.steps, seconds() / limit if limit else 0.0)
        if done >= 1:
            break
        rate = RATE * min(1.0, done / WARM_UP) * (1 - done) + 1e-9
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(args.seed + step)  # of dropout
        loss = loss_of(model, blocks, np.random.default_rng([args.seed, 1, step]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if (step + 1) % TELL_EVERY == 0:
            losses[str(step + 1)] = held_out_loss(model, held_out)
            print(
                f"step {step + 1:,}, {seconds() / 60:.1f} minutes, training loss "
                f"{float(loss.detach()):.3f}, held out {losses[str(step + 1)]:.3f}",
                flush=True,
            )
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            with writing(args.out / CHECKPOINT) as file:
                torch.save(
                    {**state, "step": step + 1, "seconds": seconds(), "held_out_loss": losses}, file
                )
    model.eval().save_pretrained(args.out)
    return {
        "seed": args.seed,
        "steps": step,
        "tokens": step * min(BATCH, len(train)) * LENGTH,
        "seconds": round(seconds(), 1),
        "parameters": model.num_parameters(),
        "training_tokens": train.size,
        "held_out_loss": held_out_loss(model, held_out),
        "held_out_loss_by_step": losses,
    }


def main() -> None:
    """Pre-train as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--minutes", type=float, default=60, help="0: --steps alone decide")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", default=os.environ.get("LOBES_DATA"))
    args = parser.parse_args()
    if (args.out / RECORD).exists():
        print((args.out / RECORD).read_text("utf-8"))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    texts = texts_of(args.data_dir)
    order = np.random.default_rng(args.seed).permutation(len(texts))
    cut = max(1, round(HELD_OUT * len(texts)))
    parts = {"held out": order[:cut], "train": order[cut:]}
    chosen = {name: [texts[i] for i in places] for name, places in parts.items()}
    if (args.out / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    else:
        tokenizer = trained_tokenizer(chosen["train"])
        tokenizer.save_pretrained(args.out)
    blocks = {name: blocks_of(some, tokenizer) for name, some in chosen.items()}
    if not all(map(len, blocks.values())):
        raise SystemExit(f"{len(texts):,} texts are too few to train on and to hold some out.")
    print(f"{len(texts):,} texts, {blocks['train'].size:,} tokens for training", flush=True)
    record = pretrain(args, blocks["train"], blocks["held out"][:HELD_OUT_BLOCKS])
    with writing(args.out / RECORD) as file:
        file.write(json.dumps(record, indent=1).encode())
    (args.out / CHECKPOINT).unlink(missing_ok=True)
    print(f"Held-out loss: {record['held_out_loss']:.3f}. Model: {args.out}")


if __name__ == "__main__":
    main()
