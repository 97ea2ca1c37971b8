"""The demo: an ordinary study of three tasks over the same real sentences.

It is chosen so that the whole run takes about five minutes on two CPU cores without bf16: short
sentences, and exchanged heads that are measured on a sample of them.
"""

from pathlib import Path

from lobes.config.study import StudyConfig
from lobes.data.cache import cache_folder
from lobes.experiments.demo_data import DemoAssets, write_demo_data

DATA = {"train_size": 3840, "validation_size": 320, "max_words": 16, "seed": 0}


def demo_study(assets: DemoAssets, output: Path, *, data: Path | None = None) -> StudyConfig:
    """Write the demo's data and return its study, whose run goes to `output`.

    `assets` are what `demo_data.fetch` returns. The data go to `data`, by default into the cache
    beside the downloads: the run's folder holds what the run made, and nothing else.
    """
    folder = data or cache_folder() / f"demo-{'-'.join(map(str, DATA.values()))}"
    study = {
        "name": "demo",
        "model": str(assets.model.absolute()),
        "output": str(output),
        "seed": DATA["seed"],
        "max_length": 128,
        "tasks": write_demo_data(assets, folder, **DATA),
        "training": {"steps": 180, "batch_size": 32, "learning_rate": 1e-4},
        "iap": {
            "fractions": [0.3],
            "controls": 20,  # 19 are the fewest that allow p ≤ 0.05
            "control_examples": 128,
            "importance_examples": 600,
            "similarity_examples": 100,
        },
    }
    return StudyConfig.from_dict(study, source="the demo")
