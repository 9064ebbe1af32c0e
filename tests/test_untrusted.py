"""Suites, records, tables, galleries and weights may be anyone's: they are data, read or refused in one line."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.lvis import Lvis
from harness import records
from harness.commands.models import predict
from harness.errors import ConfigError, DataError, DetmodesError
from harness.records import gallery
from harness.records.store import FolderStore
from harness.report.renderers import text
from harness.report.results import load
from harness.suite import load as suite_files
from harness.system.files import sha256
from model_zoo import checkpoint
from tests.support import fake_cells

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for name in ("harness", "benchmarks", "model_zoo", "tests") for path in (ROOT / name).rglob("*.py")
)

# ---- nothing is executed or unpickled ------------------------------------------------------------------------------

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
SAFE = {"weights_only": True, "allow_pickle": False}
LOADERS = {"torch.load": "weights_only", "np.load": "allow_pickle", "numpy.load": "allow_pickle"}
HIDDEN = {"torch.load", "numpy.load", "yaml.load", "os.system", "pandas.read_pickle"}
"""Not to be imported by these names alone: then the search would not see their calls."""
UNSAFE = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pd.read_hdf", "os.system"}
UNSAFE |= {"torch.hub.load", "torch.jit.load", "runpy.run_path", "runpy.run_module"}
ALLOWED = {
    "model_zoo/flamingo/language.py": ["trust_remote_code"] * 3,
    "tests/model_zoo/flamingo/test_language_models.py": ["trust_remote_code"],
    "tests/model_zoo/flamingo/test_settings.py": ["trust_remote_code"],
}
"""What the command line alone asks for: see tests/suite/test_permissions.py."""


def dangers(source: str) -> Iterator[str]:
    """What a source does that could run code out of a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            hides = any(f"{node.module}.{alias.name}" in HIDDEN for alias in node.names)
            if hides or (node.module or "").split(".")[0] in MODULES:
                yield str(node.module)
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            yield "shell="
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield "trust_remote_code"
        elif isinstance(node, ast.Dict):
            yield from _trusting(node)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            argument = LOADERS.get(called, "")
            value = given.get(argument)
            unchecked = argument and not (isinstance(value, ast.Constant) and value.value is SAFE[argument])
            if called in BUILTINS | UNSAFE or unchecked:
                yield called


def _trusting(node: ast.Dict) -> Iterator[str]:
    """Settings that let foreign code run, or may."""
    for key, value in zip(node.keys, node.values, strict=True):
        named = isinstance(key, ast.Constant) and key.value == "trust_remote_code"
        if named and isinstance(value, ast.Constant | ast.Name) and getattr(value, "value", None) is not False:
            yield "trust_remote_code"


def test_the_search_finds_each_danger() -> None:
    source = (
        "import pickle, torch\nfrom joblib import load\ntorch.load(p)\ntorch.load(p, weights_only=False)\n"
        "np.load(p, allow_pickle=True)\neval(x)\nyaml.load(f)\nf(trust_remote_code=True)\nrun(c, shell=True)\n"
        "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nf(trust_remote_code=False)\n"
        "model.eval()\nyaml.safe_load(f)\n{'trust_remote_code': trusted, 'a': {'trust_remote_code': False}}\n"
        "from torch import load\nfrom numpy import load\ntorch.jit.load(p)\n"
    )
    expected = ["eval", "joblib", "np.load", "numpy", "pickle", "shell=", "torch", "torch.load", "torch.load"]
    expected += ["torch.jit.load", "trust_remote_code", "trust_remote_code", "yaml.load"]
    assert sorted(dangers(source)) == sorted(expected)


def test_no_source_runs_what_it_reads() -> None:
    assert {"harness/report/results.py", "model_zoo/checkpoint.py"} <= {str(path.relative_to(ROOT)) for path in SOURCES}
    by_file = {str(path.relative_to(ROOT)): list(dangers(path.read_text())) for path in SOURCES}
    assert {name: places for name, places in by_file.items() if places} == ALLOWED


# ---- a malicious folder --------------------------------------------------------------------------------------------

Change = Callable[[Path, Path], None]
"""Does harm to an output folder, or to one of its cells."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = fake_cells.suite(objectives=["ce"], seeds=[0], early_stops=[], hypotheses=[], sample={"samples": 4})
    return fake_cells.write_run(tmp_path_factory.mktemp("run"), made, images=4)


def edited(name: str, change: Callable[[Any], Any]) -> Change:
    """JSON of the folder."""

    def apply(folder: Path, _: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(content)))

    return apply


def record(**fields: Any) -> Change:
    return lambda _, cell: fake_cells.rewrite(cell, **fields)


def evaluation(**fields: Any) -> Change:
    def apply(_: Path, cell: Path) -> None:
        content = json.loads((cell / records.RECORD).read_text())
        content["evaluations"][0] |= fields
        fake_cells.rewrite(cell, evaluations=content["evaluations"])

    return apply


def table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame | bytes]) -> Change:
    """A table of a cell, with the digest that it then has: the digest proves nothing about who wrote it."""

    def apply(_: Path, cell: Path) -> None:
        path = cell / f"{name}.parquet"
        made = change(pd.read_parquet(path))
        if isinstance(made, bytes):
            path.write_bytes(made)
        else:
            made.to_parquet(path, index=False)
        files = json.loads((cell / records.RECORD).read_text())["files"]
        fake_cells.rewrite(cell, files={**files, path.name: sha256(path)})

    return apply


def column(name: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{name: value})  # type: ignore[arg-type]


ATTACKS: dict[str, Change] = {
    "digests that lead out": edited("cells.json", lambda digests: ["/../../../x"] * len(digests)),
    "digests that are numbers": edited("cells.json", lambda digests: [10**400] * len(digests)),
    "a label that leads out": edited(
        "suite.json", lambda suite: suite | {"objectives": [{"name": "ce", "label": "../../x"}]}
    ),
    "a name that leads out": edited("suite.json", lambda suite: suite | {"suite": "../x"}),
    "a suite of another type": edited("suite.json", lambda suite: [suite]),
    "files that lead out": record(files={"../../etc/passwd": "0" * 64}),
    "no tables": record(files={}),
    "image ids that no array holds": record(image_ids=[10**40]),
    "no categories": record(categories=[]),
    "no evaluations": record(evaluations=[]),
    "a curve of texts": record(curve=[{"step": 1, "loss": "x"}]),
    "a curve without steps": record(curve=[{}]),
    "a probe of objects": record(probe=[{"step": {}}]),
    "a step that no array holds": evaluation(step=10**30),
    "a step that the tables lack": evaluation(step=7),
    "an AP that the tables do not give": evaluation(metrics={"AP": 1.0}),
    "an AP that is a text": evaluation(metrics={"AP": "best"}),
    "no Parquet": table("images", lambda _: b"PAR1, or so it says PAR1"),
    "an empty file": table("detections", lambda _: b""),
    "no rows": table("images", lambda frame: frame.iloc[:0]),
    "a column missing": table("images", lambda frame: frame.drop(columns="verified")),
    "texts for image ids": table("images", column("image_id", "../../x")),
    "nothing for image ids": table("detections", column("image_id", None)),
    "unknown categories": table("detections", column("category_id", 2**62)),
    "samples that fill the memory": table("images", column("samples", 10**9)),
    "samples of a text": table("images", column("samples", "x")),
    "another number of samples than the suite's": edited(
        "suite.json", lambda suite: suite | {"sample": {"samples": 8}}
    ),
    "numbers whose sum is not finite": table("images", column("self_bleu", 1e308)),
    "counts that are nothing": table("images", column("instances", float("nan"))),
    "counts that are shares": table("detections", column("true_positive", 0.5)),
    "counts that no array holds": table("detections", column("left_out", 1e308)),
    "numbers for lists": table("images", column("verified", 2**62)),
    "counts out of range": table("images", column("present", 2**62)),
    "scores of a text": table("detections", column("score", "high")),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_folder_is_refused_in_one_line(attack: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (cell,) = folder.glob("cells/toy-ce-*")
    ATTACKS[attack](folder, cell)
    with pytest.raises(DataError) as caught:
        text.to_csv(load(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_without_an_attack_it_is_read(whole: Path) -> None:
    assert "ce" in text.to_csv(load(whole))


@pytest.mark.parametrize("file", ["../../secret.png", "/etc/passwd", "1.png/../../x.png", "1.svg"])
def test_a_gallery_cannot_name_files_elsewhere(file: str, tmp_path: Path) -> None:
    (tmp_path / gallery.FOLDER).mkdir()
    picture = {"image_id": 1, "file": file, "width": 4, "height": 4, "instances": []}
    (tmp_path / gallery.FOLDER / gallery.INDEX).write_text(json.dumps({"pictures": [picture]}))
    with pytest.raises(DataError, match=r"index\.json: field pictures\.0\.file: "):
        gallery.read_gallery(tmp_path)


def test_a_gallery_table_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "cells" / "cell").mkdir(parents=True)
    (tmp_path / "cells" / "cell" / "gallery.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"gallery\.parquet: cannot be read: "):
        FolderStore(tmp_path).read_table("cell", "gallery")


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95", b"\xff" * 8 + b"{}", b"\x02" + b"\0" * 7 + b"{}"])
def test_weights_that_are_none(content: bytes, tmp_path: Path) -> None:
    """Empty, a pickle, a header of 2**64 - 1 bytes, and no vocabulary."""
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors: expected safetensors written by detmodes, got: "):
        checkpoint.read(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "suite: !!python/name:os.system",
        "suite: &a [*a]",
        "suite: ../../x",
        "[" * 5000,
    ],
)
def test_a_suite_is_data(text: str, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"suite\.yaml: "):
        suite_files.load(str(tmp_path / "suite.yaml"))


@pytest.mark.parametrize("model", [{}, {"name": "os.system"}, {"name": ["x"]}])
def test_a_cell_that_predicts_with_an_unknown_model(model: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    (source,) = whole.glob("cells/toy-ce-*")
    cell = Path(shutil.copytree(source, tmp_path / "cell"))
    fake_cells.rewrite(cell, model=model)
    with pytest.raises(DetmodesError):
        predict.open_model(str(cell))


@pytest.mark.parametrize("name", ["/etc", "../elsewhere", "images/../../x"])
@pytest.mark.parametrize("key", ["train", "val", "images"])
def test_a_suite_names_files_of_the_data_folder_alone(key: str, name: str) -> None:
    expected = f"lvis.{key}: expected a name relative to the data folder, got {name!r}"
    assert Lvis.problems({key: name}) == [expected]


def test_the_page_about_security_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "explain" / "security.md").read_text()
    named = re.findall(r"`(tests/[\w/.]+)`", text)
    assert len(named) >= 15
    assert [name for name in named if not (ROOT / name).is_file()] == []
