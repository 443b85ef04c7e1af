"""`prepare` by datatrove's executors and after its filters: the same shards, and what was left out is counted."""

import json
import os
import sys
from pathlib import Path

import pytest

from r2mae_core import UserError
from r2mae_text.data.prepare import prepare
from r2mae_text.options import Prepare

SMALL = {"vocab_size": 300, "validation_share": 0.2, "progress": False, "workers": 0}


@pytest.fixture
def paragraphs(speeches):
    """Texts that Gopher's rules keep."""
    found = [text for file in speeches for text in file.read_text("utf-8").split("\n\n") if len(text.split()) > 70]
    return [text.replace("\n", " ") for text in found[:18]]


def write(folder, files):
    for number, texts in enumerate(files):
        Path(folder).mkdir(exist_ok=True)
        lines = "".join(json.dumps({"data": {"text": text}}) + "\n" for text in texts)
        Path(folder, f"{number:05d}.jsonl").write_text(lines)
    return Path(folder)


def same_corpora(one, other):
    shards = sorted(file.name for file in one.path.glob("*.bin"))
    assert shards == sorted(file.name for file in other.path.glob("*.bin"))
    assert all((one.path / name).read_bytes() == (other.path / name).read_bytes() for name in shards)
    assert one.index == other.index
    assert not (other.path / "tasks").exists()
    assert not (other.path / "cleaning").exists()


def test_any_number_of_workers_writes_the_same_bytes(paragraphs):
    pytest.importorskip("datatrove.executor")
    source = write("in", [paragraphs[i::5] for i in range(5)])
    make = {**SMALL, "text_field": "data.text"}
    direct = prepare(Prepare((source,), out=Path("direct"), **make))
    assert len(list(direct.path.glob("train-*.bin"))) == 5
    for workers in (1, 2):
        options = {**make, "workers": workers, "executor": "local"}
        same_corpora(direct, prepare(Prepare((source,), out=Path(f"local-{workers}"), **options)))


def test_of_bad_and_repeated_documents_the_rest_is_as_if_prepared_alone(paragraphs):
    pytest.importorskip("datatrove.executor")
    pytest.importorskip("spacy")
    near = paragraphs[2] + " So be it."
    files = [paragraphs[:6], ["too short", *paragraphs[6:12], paragraphs[0]], [near, *paragraphs[12:], " ", "# " * 300]]
    source = write("in", files)
    kept = write("kept", [paragraphs[:6], paragraphs[6:12], paragraphs[12:]])
    make = {**SMALL, "text_field": "data.text"}
    expected = prepare(Prepare((kept,), out=Path("expected"), **make))
    found = prepare(Prepare((source,), out=Path("out"), quality="gopher", deduplicate=True, **{**make, "workers": 1}))
    skipped = {"empty documents": 1, "documents of low quality (short doc)": 2, "near-duplicates": 2}
    assert found.index.pop("skipped") == skipped
    assert expected.index.pop("skipped") == {}
    same_corpora(expected, found)


def test_faulty_records_count_before_the_filters(paragraphs):
    pytest.importorskip("datatrove.executor")
    source = write("in", [paragraphs])
    with Path(source, "00000.jsonl").open("a") as out:
        out.write("no json\n")
    options = {**SMALL, "workers": 1, "text_field": "data.text", "deduplicate": True}
    with pytest.raises(UserError, match=r"1 of 19 records are faulty, more than --max_bad 0\.01; the first: .*00000"):
        prepare(Prepare((source,), out=Path("out"), **options))
    found = prepare(Prepare((source,), out=Path("out"), max_bad=0.1, **options))
    assert found.index["documents"] == 18
    assert "00000.jsonl" in found.index["first_bad"]


def test_what_has_no_documents_is_not_judged(speeches):
    Path("large.txt").write_text("one long text " * 400_000)
    with pytest.raises(UserError, match=r"large\.txt is one document as large as a library.*--document line"):
        prepare(Prepare((Path("large.txt"),), out=Path("out"), quality="gopher", **SMALL))


@pytest.mark.parametrize("options", [{"executor": "local"}, {"quality": "c4"}, {"executor": "ray"}])
def test_without_datatrove_the_extra_is_named(monkeypatch, speeches, options):
    for name in ("datatrove.executor", "datatrove.pipeline", "datatrove"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'r2mae-text\[datatrove"):
        prepare(Prepare((speeches[0],), out=Path("out"), **{**SMALL, **options}))


def test_arguments_without_an_executor_are_refused(speeches):
    with pytest.raises(UserError, match="--executor_args are for an --executor"):
        Prepare((speeches[0],), executor_args={"time": "1:00:00"})


def test_arguments_that_an_executor_lacks_or_does_not_know(speeches):
    pytest.importorskip("datatrove.executor")
    with pytest.raises(UserError, match=r"--executor slurm does not take these --executor_args: .*'partition'"):
        prepare(Prepare((speeches[0],), out=Path("out"), executor="slurm", **SMALL))
    options = {**SMALL, "executor": "local", "executor_args": {"partition": "cpu"}}
    with pytest.raises(UserError, match=r"--executor local does not take these --executor_args: .*'partition'"):
        prepare(Prepare((speeches[0],), out=Path("out"), **options))


SBATCH = """#!/bin/bash
echo "Submitted batch job 7"
for script; do :; done
if grep -q array "$script" && [ -z "$LOSE" ]; then SLURM_NODELIST=localhost SLURM_ARRAY_TASK_ID=0 bash "$script" >&2; fi
"""


def test_slurm_is_waited_for_and_lost_tasks_are_named(speeches, monkeypatch):
    """sbatch is a script here that runs what it is given at once, or loses it."""
    pytest.importorskip("datatrove.executor")
    tools = {
        "sbatch": SBATCH,
        "squeue": "#!/bin/bash\n",
        "scontrol": "#!/bin/bash\necho localhost\n",
        "srun": '#!/bin/bash\nexec "${@: -2}"\n',
    }
    Path("bin").mkdir()
    for name, content in tools.items():
        Path("bin", name).write_text(content)
        Path("bin", name).chmod(0o755)
    path = f"{Path('bin').absolute()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PYTHONPATH", ":".join(entry for entry in sys.path if entry))
    direct = prepare(Prepare((speeches[0],), out=Path("direct"), **SMALL))
    options = {**SMALL, "executor": "slurm", "executor_args": {"time": "1:00:00", "partition": "cpu"}}
    monkeypatch.setenv("LOSE", "1")
    with pytest.raises(UserError, match="1 of 1 tasks did not end well, the first is number 0; see out/tasks/logs"):
        prepare(Prepare((speeches[0],), out=Path("out"), **options))
    monkeypatch.delenv("LOSE")
    same_corpora(direct, prepare(Prepare((speeches[0],), out=Path("out"), **options)))
