"""The demo: an ordinary study of three tasks over the same real sentences."""

from pathlib import Path

from lobes.cache import cache_folder
from lobes.study.config import StudyConfig
from lobes.study.demo_data import DemoAssets, write_demo_data

# Chosen so that the whole run takes at most five minutes on two CPU cores.
TRAIN_SIZE = 6400
VALIDATION_SIZE = 320
STEPS = 320
BATCH_SIZE = 32
LEARNING_RATE = 1e-4
MAX_LENGTH = 128
FRACTIONS = (0.1, 0.2, 0.3)
CONTROLS = 10
IMPORTANCE_EXAMPLES = 2000
AGREEMENT_EXAMPLES = 100
SEED = 0


def demo_study(assets: DemoAssets, output: Path, *, data: Path | None = None) -> StudyConfig:
    """Write the demo's data and return its study, whose run goes to `output`.

    `assets` are what `demo_data.fetch` returns. The data go to `data`, by default into the cache
    beside the downloads: the run's folder holds what the run made, and nothing else.
    """
    folder = data or cache_folder() / f"demo-{TRAIN_SIZE}-{VALIDATION_SIZE}-{SEED}"
    tasks = write_demo_data(
        assets, folder, train_size=TRAIN_SIZE, validation_size=VALIDATION_SIZE, seed=SEED
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
                "importance_examples": IMPORTANCE_EXAMPLES,
                "agreement_examples": AGREEMENT_EXAMPLES,
            },
        },
        source="the demo",
    )
