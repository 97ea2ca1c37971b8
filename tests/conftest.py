"""Every test runs with types and shapes checked, and reaches no network."""

import gc
import os

# Before torch and transformers are imported: nothing under test may reach the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread, here and in the processes that tests start: the last bits of a training depend on it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As the command line does: waiting threads sleep, also in what the tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from typechecking import Tests, check_package

check_package("lobes")


def pytest_collection_finish() -> None:
    """Take all that imports made, most of what there is, from what is looked through for garbage.

    lobes frees memory after each training; looking through all of it took half a test's time.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Check types and shapes anew in each test."""
    Tests.number += 1
