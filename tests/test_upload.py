"""`lobes prune --push-to-hub`: huggingface_hub's own upload, to a hub of this process."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner

from lobes.cli import app
from lobes.errors import RunError
from lobes.experiments.upload import upload
from tiny_models import tiny_model
from tiny_tasks import tiny_tokenizer

NAME = "me/smaller"


class Hub(ThreadingHTTPServer):
    """The four addresses that an upload of small files asks for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.refuses = False
        self.private = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers["Authorization"] != "Bearer hf_secret" or self.server.refuses:
            self._say({"error": "You may not write here"}, 403)
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self._say({"url": f"{self.server.url}/{NAME}", "id": NAME})
        elif self.path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            about = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._say({"files": [{"path": name, **about} for name in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    self.server.messages.append(value["summary"])
                else:
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            self._say({"commitUrl": f"{self.server.url}/{NAME}/commit/7", "commitOid": "7" * 40})
        else:
            self._say({"error": f"no {self.path}"}, 404)

    def do_GET(self) -> None:
        self._say({"id": NAME, "sha": "0" * 40, "private": self.server.private, "siblings": []})

    def _say(self, what: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine, and a token of it."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bert"
    tiny_model("bert").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def pruned(bert: Path, to: Path, *more: str) -> Any:
    given = ["prune", str(bert), "--drop", "0:1 1:0", "--length", "7", "--to", str(to), *more]
    return CliRunner().invoke(app, given)


def test_the_folder_is_uploaded_with_its_card(hub, bert, tmp_path):
    result = pruned(bert, tmp_path / "smaller", "--push-to-hub", NAME, "--private")
    assert result.exit_code == 0, result.output
    assert f"Uploaded: {hub.url}/{NAME}" in " ".join(result.output.split())
    assert hub.made[0]["name"] == "smaller"
    assert hub.made[0].get("visibility") == "private" or hub.made[0]["private"]
    written = {path.name: path.read_bytes() for path in (tmp_path / "smaller").iterdir()}
    assert hub.files == written
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= hub.files.keys()
    assert f'load_pruned("{NAME}")' in hub.files["README.md"].decode()
    assert hub.messages[0].startswith("Remove 2 of ")


def test_where_the_hub_refuses_the_folder_stays(hub, bert, tmp_path):
    hub.refuses = True
    folder = tmp_path / "a smaller one"
    result = pruned(bert, folder, "--push-to-hub", NAME, "--private")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"{NAME!r} was not uploaded to {hub.url}:" in said
    assert f"`hf upload {NAME} '{folder}' --private` tries again" in said
    assert (folder / "model.safetensors").is_file()


def test_a_private_model_does_not_go_where_all_can_see_it(hub, tmp_path):
    """The hub keeps a repository that is there as public as it is."""
    (tmp_path / "README.md").write_text("mine")
    hub.private = False
    with pytest.raises(RunError, match=r"already, for all to see, .* `hf upload .* --private`"):
        upload(tmp_path, NAME, message="one", private=True)
    assert hub.files == {}
    upload(tmp_path, NAME, message="one")
    assert hub.files == {"README.md": b"mine"}


def test_a_hub_that_is_not_reached(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"was not uploaded to http://127\.0\.0\.1:9: "):
        upload(tmp_path, NAME, message="nothing")


@pytest.mark.parametrize(
    ("name", "offline", "token", "sentence"),
    [
        ("me/no such", False, "hf_secret", "a model's name has letters, digits"),
        (NAME, True, "hf_secret", "HF_HUB_OFFLINE=1 forbids connections"),
        (NAME, False, None, "there is no token of yours; run `hf auth login`"),
        (None, False, "hf_secret", "name it with push_to_hub"),
    ],
)
def test_what_cannot_be_uploaded_is_not_pruned(
    bert, tmp_path, monkeypatch, name, offline, token, sentence
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("lobes.experiments.upload.get_token", lambda: token)
    more = ["--private"] if name is None else ["--push-to-hub", name]
    result = pruned(bert, tmp_path / "smaller", *more)
    assert result.exit_code == 1
    assert sentence in " ".join(result.stderr.split())
    assert not (tmp_path / "smaller").exists()
