"""Where commands write: never over what lobes did not write, never through a link."""

import os
import stat
from pathlib import Path

import pytest

from fake_results import fake_results
from lobes.errors import RunError
from lobes.experiments.ag_pair import make_pairs
from lobes.experiments.outputs import OutputFolder, check_output
from lobes.experiments.prune import _copy, check_target
from lobes.experiments.reports import write_exhibits
from lobes.files import to_json
from plain_results import report_again

MINE = b"text\tmood\nmine\tgood\n"


def _written(folder: Path, name: str, content: bytes) -> None:
    with OutputFolder(folder, [name]).writing(name) as file:
        file.write(content)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with results to report."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.json").write_bytes(
        to_json(fake_results(tasks=2, sites=(3, 2), fractions=(0.2, 0.4), controls=3))
    )
    return folder


def test_what_lobes_wrote_is_replaced(tmp_path: Path) -> None:
    for content in (b"one", b"other"):
        _written(tmp_path / "to", "mood.test.tsv", content)
        assert (tmp_path / "to" / "mood.test.tsv").read_bytes() == content


def test_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "mood.test.tsv").write_bytes(MINE)
    with pytest.raises(RunError, match=r"mood.test.tsv exists, and it is not as lobes wrote it"):
        _written(tmp_path, "mood.test.tsv", b"lobes")
    assert (tmp_path / "mood.test.tsv").read_bytes() == MINE
    _written(tmp_path, "other.tsv", b"lobes")
    (tmp_path / "other.tsv").write_bytes(MINE)  # changed by hand since
    with pytest.raises(RunError, match="or remove it first"):
        _written(tmp_path, "other.tsv", b"lobes")
    assert (tmp_path / "other.tsv").read_bytes() == MINE


def test_a_list_of_files_that_is_mine_stays(tmp_path: Path) -> None:
    (tmp_path / "files.json").write_bytes(MINE)
    with pytest.raises(RunError, match=r"files.json exists, and it is not as lobes wrote it"):
        _written(tmp_path, "mood.test.tsv", b"lobes")
    assert [path.name for path in tmp_path.iterdir()] == ["files.json"]
    assert (tmp_path / "files.json").read_bytes() == MINE


def test_links_pipes_and_folders_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(MINE)
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "dangling", "pipe", "folder"):
        with pytest.raises(RunError, match="which lobes does not replace"):
            check_output(tmp_path / name)
    assert (tmp_path / "mine").read_bytes() == MINE
    with pytest.raises(RunError, match="is a pipe or device"):
        check_output(Path("/dev/null"))


def test_a_page_is_known_by_how_it_begins(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with OutputFolder(tmp_path, ["page.html"]).writing("page.html") as file:
        file.write(b"")  # its entry is of another content than the pages below
    page.unlink()
    for _ in range(2):
        report_again(run, page)
    page.write_text("<html>mine</html>")
    with pytest.raises(RunError, match=r"page\.html exists"):
        report_again(run, page)
    assert page.read_text() == "<html>mine</html>"


def test_a_page_replaces_no_link_and_no_pipe(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(MINE)
    (run / "report.html").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="is a link"):
        report_again(run)
    assert (tmp_path / "mine").read_bytes() == MINE
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(RunError, match="is a pipe or device"):
        report_again(run, tmp_path / "pipe.html")
    assert stat.S_ISFIFO((tmp_path / "pipe.html").stat().st_mode)


def test_figures_and_tables_replace_their_own_only(run: Path, tmp_path: Path) -> None:
    files = write_exhibits(run, tmp_path / "paper", png=False)
    assert write_exhibits(run, tmp_path / "paper", png=False) == files
    table = next(path for path in files if path.suffix == ".csv")
    table.write_bytes(MINE)
    with pytest.raises(RunError, match="not as lobes wrote it"):
        write_exhibits(run, tmp_path / "paper", png=False)
    assert table.read_bytes() == MINE


def test_pairs_go_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "out.csv").symlink_to("nowhere.csv")
    with pytest.raises(RunError, match="is there already"):
        make_pairs(tmp_path / "in.csv", tmp_path / "out.csv")
    assert not (tmp_path / "nowhere.csv").exists()


def test_a_pruned_model_gets_nothing_from_behind_a_link(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "1_Pooling").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(MINE)
    (source / "vocab.txt").symlink_to(tmp_path / "secret")
    (source / "1_Pooling" / "notes").symlink_to(tmp_path / "secret")
    (source / "1_Pooling" / "config.json").write_text("{}")
    (source / "own.txt").write_text("own")
    (source / "also.txt").symlink_to("own.txt")
    (tmp_path / "to").mkdir()
    for path in sorted(source.iterdir()):
        _copy(path, tmp_path / "to" / path.name, [source])
    found = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*")}
    assert found == {"1_Pooling", "1_Pooling/config.json", "own.txt", "also.txt"}
    (tmp_path / "link").symlink_to("to")
    with pytest.raises(RunError, match="is a link"):
        check_target(tmp_path / "link", fresh=True)
