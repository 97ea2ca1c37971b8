"""What many examples cost: seconds and peak memory to read, tokenize and train on a large file.

Files of random English words with two labels are written once: Parquet, CSV and JSON lines. Every
figure is of a process of its own, one after the other: reading and tokenizing with an empty cache,
the same again with what is in the cache, and some steps of a tiny model over it. "own" is the
largest memory of the process that is not backed by a file (sampled), "peak" its largest resident
memory, with the pages of mapped files that the system may take back at any time.

    python -m benchmarks.data [--rows 1000000] [--steps 300] [--kinds parquet csv jsonl]
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

BLOCK = 20_000
WORDS = 25  # on average, in each text


def write_file(path: Path, rows: int, vocabulary: list[str]) -> None:
    """A file of `rows` texts of 15 to 35 words, in the kind that the suffix names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    schema = pa.schema({"text": pa.string(), "label": pa.int64()})
    parquet = pq.ParquetWriter(path, schema) if path.suffix == ".parquet" else None
    with open(os.devnull if parquet else path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        if path.suffix == ".csv":
            table.writerow(["text", "label"])
        for start in range(0, rows, BLOCK):
            number = min(BLOCK, rows - start)
            sizes = generator.integers(WORDS - 10, WORDS + 11, number)
            words = iter(generator.integers(len(vocabulary), size=int(sizes.sum())).tolist())
            texts = [" ".join(vocabulary[next(words)] for _ in range(n)) for n in sizes.tolist()]
            labels = generator.integers(2, size=number).tolist()
            if parquet:
                parquet.write_table(pa.table({"text": texts, "label": labels}, schema=schema))
            elif path.suffix == ".csv":
                table.writerows(zip(texts, labels, strict=True))
            else:
                for text, label in zip(texts, labels, strict=True):
                    file.write(json.dumps({"text": text, "label": label}) + "\n")
    if parquet:
        parquet.close()


class Memory(threading.Thread):
    """Samples the part of this process's memory that no file backs, in MiB (Linux only)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0

    def run(self) -> None:
        while True:
            with open("/proc/self/status", encoding="ascii") as file:
                anonymous = [line for line in file if line.startswith("RssAnon")]
            self.most = max(self.most, int(anonymous[0].split()[1]) / 1024)
            time.sleep(0.02)


def measure(path: Path, assets: Path, steps: int) -> dict[str, float]:
    """Read and tokenize the file in this process, then train for `steps`; figures of all that."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from lobes import MultiTaskModel, MultiTaskTrainer
    from lobes.data.batching import encode
    from lobes.tasks.sources import load_task
    from lobes.training.arguments import training_arguments

    memory = Memory()
    memory.start()
    tokenizer = AutoTokenizer.from_pretrained(assets)
    found = {"start": _peak()}
    clock = time.perf_counter()
    task = load_task("large", train=path, text="text", labels=("0", "1"), validation_size=1000)
    found["read_s"] = time.perf_counter() - clock
    found["read"] = _peak()
    found["read_own"] = memory.most
    clock = time.perf_counter()
    if steps == 0:
        assert task.train is not None
        encoded = encode(tokenizer, task.train.texts, 128)
        found["tokens"] = int(encoded.offsets[-1])
    else:
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
        )
        model = MultiTaskModel(BertModel(config), tokenizer, [task], max_length=128)
        with tempfile.TemporaryDirectory() as folder:
            args = training_arguments(folder, steps=steps, batch_size=32, precision="fp32")
            MultiTaskTrainer(model, args, tasks=[task]).train()
    found["then_s"] = time.perf_counter() - clock
    found["peak"] = _peak()
    time.sleep(0.05)
    found["own"] = memory.most
    return found


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(path: Path, assets: Path, steps: int, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data", "--measure", str(path)]
    command += ["--assets", str(assets), "--steps", str(steps)]
    out = subprocess.run(
        command, env={**os.environ, "LOBES_CACHE": str(cache)}, check=True, capture_output=True
    )
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", default=["parquet", "csv", "jsonl"])
    parser.add_argument("--folder", type=Path, help="where the files and the cache go, and stay")
    parser.add_argument("--assets", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.assets, given.steps)))
        return
    from lobes.experiments.demo import fetch

    assets = given.assets or fetch().model
    with tempfile.TemporaryDirectory() as scratch:
        run(given.folder or Path(scratch), assets, given.rows, given.steps, given.kinds)


def run(folder: Path, assets: Path, rows: int, steps: int, kinds: list[str]) -> None:
    """Write the files, measure each, and print a line for each process."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(assets).get_vocab()
    vocabulary = sorted(word for word in tokens if word.isascii() and word.isalpha())
    print(f"{rows:,} rows, memory in MiB")
    print(f"{'':28}{'read':>8}{'then':>9}{'peak':>8}{'own':>8}")
    for kind in kinds:
        path = folder / f"{rows}.{kind}"
        if not path.exists():
            write_file(path, rows, vocabulary)
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            ways = {"first": 0, "again": 0}
            if kind == kinds[0] and steps:
                ways[f"train {steps} steps"] = steps
            for way, number in ways.items():
                found = in_a_process(path, assets, number, Path(cache))
                print(
                    f"{kind + ', ' + way:28}{found['read_s']:6.1f} s{found['then_s']:7.1f} s"
                    f"{found['peak']:8.0f}{found['own']:8.0f}"
                    f"   (read: {found['read']:.0f}, {found['read_own']:.0f} own)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
