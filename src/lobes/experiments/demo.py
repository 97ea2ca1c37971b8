"""The demo: an ordinary study of three tasks over the same real sentences."""

from pathlib import Path

from lobes.config.study import StudyConfig
from lobes.data.cache import cache_folder
from lobes.experiments.demo_data import DemoAssets, write_demo_data

# Chosen so that the whole run takes about five minutes on two CPU cores without bf16: short
# sentences, and exchanged heads that are measured on a sample of them.
TRAIN_SIZE = 3840
VALIDATION_SIZE = 320
MAX_WORDS = 16
STEPS = 180
BATCH_SIZE = 32
LEARNING_RATE = 1e-4
MAX_LENGTH = 128
FRACTIONS = (0.3,)
CONTROLS = 20  # 19 are the fewest that allow p ≤ 0.05
CONTROL_EXAMPLES = 128
IMPORTANCE_EXAMPLES = 600
SIMILARITY_EXAMPLES = 100
SEED = 0


def demo_study(assets: DemoAssets, output: Path, *, data: Path | None = None) -> StudyConfig:
    """Write the demo's data and return its study, whose run goes to `output`.

    `assets` are what `demo_data.fetch` returns. The data go to `data`, by default into the cache
    beside the downloads: the run's folder holds what the run made, and nothing else.
    """
    folder = data or cache_folder() / f"demo-{TRAIN_SIZE}-{VALIDATION_SIZE}-{MAX_WORDS}-{SEED}"
    tasks = write_demo_data(
        assets,
        folder,
        train_size=TRAIN_SIZE,
        validation_size=VALIDATION_SIZE,
        max_words=MAX_WORDS,
        seed=SEED,
    )
    return StudyConfig.from_dict(
        {
            "name": "demo",
            "model": str(assets.model.absolute()),
            "output": str(output),
            "seed": SEED,
            "max_length": MAX_LENGTH,
            "tasks": tasks,
            "training": {
                "steps": STEPS,
                "batch_size": BATCH_SIZE,
                "learning_rate": LEARNING_RATE,
            },
            "iap": {
                "fractions": FRACTIONS,
                "controls": CONTROLS,
                "control_examples": CONTROL_EXAMPLES,
                "importance_examples": IMPORTANCE_EXAMPLES,
                "similarity_examples": SIMILARITY_EXAMPLES,
            },
        },
        source="the demo",
    )
