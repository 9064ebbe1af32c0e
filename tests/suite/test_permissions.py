"""What a record or a suite cannot give itself: code that runs, and files that lie elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.commands.models import predict
from harness.errors import ConfigError
from harness.protocols import Adapter
from harness.suite.load import parse
from harness.suite.permissions import NOTHING, Permissions, permit_benchmark, permit_record, run_of, trust_models
from model_zoo.flamingo import language
from tests.support import fake_cells

CODE = """
from pathlib import Path

from transformers import MptConfig, MptForCausalLM

(Path(__file__).parent / "ran").touch()
MARK


class OwnConfig(MptConfig):
    model_type = "mpt"


class Own(MptForCausalLM):
    config_class = OwnConfig
"""
NAMES = [name for category in fake_cells.CATEGORIES for name in category.names]


TRUSTING: dict[str, Any] = {"trust_remote_code": bool(1)}
"""As a file may have it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = fake_cells.suite(objectives=["ce"], seeds=[0], early_stops=[], hypotheses=[], sample={"samples": 4})
    return fake_cells.write_run(tmp_path_factory.mktemp("run"), made, images=4)


@pytest.fixture
def cell(whole: Path, tmp_path: Path) -> Path:
    """The base of a run that somebody else may have written."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    return next(run.glob("cells/toy-base-*"))


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A language model whose code leaves the file `ran` in `tmp_path`."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, tokenizer = tmp_path / "evil_model", language.toy_tokenizer(NAMES)
    language.toy_model("mpt", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    entries = {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps({**config, **entries}))
    (folder / "own.py").write_text(CODE.replace("MARK", f"Path({str(tmp_path / 'ran')!r}).touch()"))
    return folder


def model(**settings: Any) -> dict[str, Any]:
    return {"name": "open_flamingo_hf", "vision": "toy", "bins": 65, **settings}


def refusal(cell: Path, permissions: Permissions = NOTHING) -> str:
    with pytest.raises(ConfigError) as caught:
        predict.open_model(str(cell), permissions)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- code ----------------------------------------------------------------------------------------------------------


def test_a_foreign_cell_runs_no_code(cell: Path, code: Path, tmp_path: Path) -> None:
    """The case of a report: `predict` on a folder from elsewhere imported Python from where its record said."""
    fake_cells.rewrite(cell, model=model(language=str(code)) | TRUSTING)
    flag = f"give --trust-remote-code {code}"
    assert flag in refusal(cell)
    assert flag in refusal(cell, Permissions(places=(str(code), str(tmp_path))))  # to be read is not to be run
    assert not (tmp_path / "ran").exists()
    predict.open_model(str(cell), Permissions(trusted=(str(code),)))
    assert (tmp_path / "ran").exists()


def test_without_the_setting_its_code_does_not_run_either(cell: Path, code: Path, tmp_path: Path) -> None:
    fake_cells.rewrite(cell, model=model(language=str(code), trust_remote_code=False))
    predict.open_model(str(cell), Permissions(places=(str(code),)))
    assert not (tmp_path / "ran").exists()


def test_a_model_to_trust_must_be_there(cell: Path, code: Path) -> None:
    """Misspelled, it would silently be the model without its code."""
    fake_cells.rewrite(cell, model=model(language=str(code)))
    wrong = Permissions(places=(str(code),), trusted=(f"{code}x",))
    assert f"--trust-remote-code {code}x: expected one of {code}" in refusal(cell, wrong)
    with pytest.raises(ConfigError, match="--trust-remote-code y: expected none, as no model here comes with code"):
        trust_models("open_flamingo", {}, ["y"])


def suite(permissions: Permissions = NOTHING, **settings: Any) -> Any:
    """The settings of the model as they are read from a suite file."""
    content = {
        "suite": "s",
        "benchmark": {"name": "shapes"},
        "models": [model(label="flamingo", **settings)],
        "objectives": ["ce"],
        "seeds": [0],
    }
    return parse(content, "s.yaml", permissions).models[0].settings


def test_a_suite_cannot_trust_either(tmp_path: Path) -> None:
    place = str(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"^s\.yaml: models\.flamingo: trust_remote_code: .*--trust-remote-code /"):
        suite(language=place, **TRUSTING)
    trusting = Permissions(trusted=(place,))
    for given in ({}, TRUSTING, {"trust_remote_code": False}):
        assert suite(trusting, language=place, **given)["trust_remote_code"] is True
    assert suite(language=place, trust_remote_code=False)["trust_remote_code"] is False
    assert "trust_remote_code" not in suite(language=place)


def test_the_record_says_that_it_was_given(code: Path) -> None:
    """What `describe` says is the record's `model`, and a part of what identifies the cell."""
    settings = {key: value for key, value in model(language=str(code)).items() if key != "name"}
    categories = fake_cells.CATEGORIES
    trusting = trust_models("open_flamingo_hf", settings, [str(code)])
    made = [registry.model("open_flamingo_hf", categories, given).describe() for given in (settings, trusting)]
    assert [described["trust_remote_code"] for described in made] == [False, True]


# ---- places --------------------------------------------------------------------------------------------------------


def test_what_a_record_names_elsewhere_is_listed_with_the_option(cell: Path, code: Path, tmp_path: Path) -> None:
    other = tmp_path / "with blank.safetensors"
    settings = model(language=str(code), vision="ViT-B-32", vision_weights=str(other), weights="hub:a/b@c")
    fake_cells.rewrite(cell, model=settings)
    options = f"--allow {code} --allow '{other}' --allow hub:a/b@c"
    assert refusal(cell) == (
        f"{cell}: a record names what lies outside of its run; if it is to be read, give {options}"
    )
    allowed = Permissions(places=(str(tmp_path), "hub:a/b@c"))  # what is below a folder is allowed with it
    assert permit_record(cell, "open_flamingo_hf", settings | {"name": ""}, allowed)["language"] == str(code)


@pytest.mark.parametrize("place", ["hub:a/b@d", "s3://bucket/x", "../../../x", "/etc/passwd", "cells/x", "\0"])
def test_places_that_only_look_allowed(cell: Path, place: str) -> None:
    """Another revision, a URL, and what is relative to where the command is typed, not to the run."""
    given = model(language="toy-opt", weights=place)
    with pytest.raises(ConfigError, match="--allow "):
        permit_record(cell, "open_flamingo_hf", given, Permissions(places=("hub:a/b@c",)))


def test_the_folder_of_its_own_run_is_open_to_it(cell: Path, code: Path) -> None:
    run = cell.parents[1]
    shutil.move(code, run / "language")
    fake_cells.rewrite(cell, model=model(language=str(run / "language")))
    assert isinstance(predict.open_model(str(cell)), Adapter)


def test_a_link_in_it_leads_out(cell: Path, code: Path) -> None:
    link = cell.parents[1] / "language"
    link.symlink_to(code)
    fake_cells.rewrite(cell, model=model(language=str(link)))
    assert f"--allow {link}" in refusal(cell)


def test_the_run_of_a_cell(cell: Path, tmp_path: Path) -> None:
    """A folder that merely happens to be called `cells` makes no run of what is beside it."""
    assert run_of(cell) == cell.parents[1].resolve()
    lonely = tmp_path / "cells" / "x"
    lonely.mkdir(parents=True)
    assert run_of(lonely) == lonely.resolve()


def cell_with(folder: Path, **settings: Any) -> str:
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"model": {"name": "open_flamingo_hf", **settings}}))
    (folder / "model.safetensors").touch()
    return str(folder)


def test_a_suite_speaks_for_itself_and_not_for_the_cell_it_begins_with(tmp_path: Path) -> None:
    """The weights of a cell are read on top of what it began with, which its record names."""
    hub = "hub:owner/name@abc"
    assert suite(language=hub, weights=str(tmp_path / "x.pt"))["language"] == hub
    begun = cell_with(tmp_path / "warm-up", weights=hub)
    with pytest.raises(ConfigError, match=f"s.yaml: models.flamingo: a record names .*--allow {hub}$"):
        suite(language="toy-opt", weights=begun)
    assert suite(Permissions(places=(hub,)), language="toy-opt", weights=begun)["weights"] == begun
    assert suite(language="toy-opt", weights=cell_with(tmp_path / "second", weights="random"))


def test_a_cell_that_begins_with_itself_is_refused(tmp_path: Path) -> None:
    """Reading it never ended."""
    first = cell_with(tmp_path / "first", weights=str(tmp_path / "second"))
    cell_with(tmp_path / "second", weights=first)
    with pytest.raises(ConfigError, match="a cell that begins with itself"):
        suite(Permissions(places=(str(tmp_path),)), language="toy-opt", weights=first)


class Silent:
    """A model of another package that does not say which of its settings are places."""


def test_of_a_class_that_does_not_say_every_text_is_a_place(monkeypatch: pytest.MonkeyPatch, cell: Path) -> None:
    monkeypatch.setattr(registry, "find", lambda kind, name: Silent)
    with pytest.raises(ConfigError, match=r"--allow gpt2 --allow /a --allow b$"):
        permit_record(cell, "silent", {"base": "gpt2", "size": 3, "more": {"files": ["/a", "b"]}}, Permissions())
    with pytest.raises(ConfigError, match=r"trust_remote_code: .* no model of this kind has any$"):
        permit_record(cell, "silent", TRUSTING, Permissions())


@pytest.mark.parametrize("kind", ["model", "benchmark"])
def test_no_shipped_class_leaves_it_unsaid(kind: registry.Kind) -> None:
    """Of one that did, this text would be a place."""
    for name in registry.names(kind):
        assert registry.places(kind, name, {"domain": "plain"}) == []


def test_a_benchmark_of_another_package_reads_nothing_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "find", lambda kind, name: Silent)
    permit_benchmark(tmp_path, "silent", {"files": str(tmp_path / "data")}, NOTHING)
    with pytest.raises(ConfigError, match=r"if it is to be read, give --allow /etc$"):
        permit_benchmark(tmp_path, "silent", {"files": "/etc"}, NOTHING)
