"""Which files of a folder are text: what the system, datasets or a link put there is left out, and named."""

from pathlib import Path

import pytest

from r2mae_core import UserError
from r2mae_text.data.documents import Tally, documents
from r2mae_text.data.sources import plan_pieces


def read(*sources):
    plan, tally = plan_pieces(tuple(map(Path, sources))), Tally()
    return [part.text for piece in plan.pieces for part in documents(piece, "text", tally)], plan.unread


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("in/.ipynb_checkpoints/a-checkpoint.txt", "folders of the system, or hidden (in/.ipynb_checkpoints)"),
        ("in/sub/.git/description.md", "folders of the system, or hidden (in/sub/.git)"),
        ("in/@eaDir/a.txt", "folders of the system, or hidden (in/@eaDir)"),
        ("in/__MACOSX/a.txt", "folders of the system, or hidden (in/__MACOSX)"),
        ("in/._a.txt", "hidden files (in/._a.txt)"),
        ("in/notes.docx", "files that end in .docx (in/notes.docx)"),
        ("in/README", "files that end in nothing (in/README)"),
    ],
)
def test_what_the_user_did_not_mean_is_named(name, reason):
    for file in ("in/a.txt", "in/sub/b.txt", name):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(f"text of {Path(file).name}")
    texts, unread = read("in")
    assert texts == ["text of a.txt", "text of b.txt"]
    assert unread == {reason: 1}


def test_links_are_named_where_they_are_not_followed():
    for folder in ("in", "elsewhere"):
        Path(folder).mkdir()
        Path(folder, "a.txt").write_text(f"text in {folder}")
    Path("in/linked").symlink_to(Path("elsewhere").absolute())
    Path("in/lost.txt").symlink_to("/nowhere/lost.txt")
    Path("in/file.txt").symlink_to(Path("elsewhere/a.txt").absolute())
    texts, unread = read("in")
    assert texts == ["text in in", "text in elsewhere"]
    assert unread == {
        "linked folders, which are not followed (in/linked)": 1,
        "links to files that are not there (in/lost.txt)": 1,
    }


@pytest.mark.parametrize("source", ["saved", "saved/*.arrow"])
def test_the_cache_of_a_saved_data_set_is_not_read_again(source):
    from datasets import Dataset, load_from_disk

    Dataset.from_dict({"text": ["one", "two", "three"]}).save_to_disk("saved", num_shards=2)
    load_from_disk("saved").map(lambda row: {"text": row["text"].upper()})  # leaves saved/cache-….arrow
    cache = next(Path("saved").glob("cache-*.arrow"))
    texts, unread = read(source)
    assert texts == ["one", "two", "three"]
    assert unread == {f"files that datasets keeps for itself beside its data (saved/{cache.name})": 1}


def test_a_saved_data_set_that_lacks_a_file_is_refused():
    from datasets import Dataset

    Dataset.from_dict({"text": ["one", "two", "three"]}).save_to_disk("saved", num_shards=3)
    Path("saved/data-00001-of-00003.arrow").unlink()
    with pytest.raises(UserError, match=r"saved lacks data-00001-of-00003\.arrow, one of 3 files"):
        read("saved")


def test_a_users_own_state_json_is_text():
    Path("in").mkdir()
    Path("in/state.json").write_text('[{"text": "of a state"}]')
    assert read("in") == (["of a state"], {})
