"""The demo, apart from the other commands: it takes long, and files run side by side."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from r2mae_core import Record, UserError, read_records
from r2mae_text.batching import encode
from r2mae_text.data.glue import load_task
from r2mae_text.demo import SCHEMES, verdict
from r2mae_text.demo_probe import probe_model, probe_words, word_states
from r2mae_text.demo_tasks import TASKS, commas, plain, replaced, sentences, swapped, write_tasks

SENTENCE = [*("The", "Congress,", "which", "met", "here,", "will", "now", "consider", "these", "several"), "questions."]


def test_demo_does_the_whole_path(call, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})  # no processes: each would import torch again
    code, out, err = call("demo", "--steps=8", "--seeds=[0]", "--labels=64", "--device=cpu", "--out=run")
    assert (code, err) == (0, "")
    rows = (
        "words, no model",
        "no pretraining",
        "shuffled weights",
        "fixed 0.15",
        "high 0.4",
        "mdlm",
        "dynamic",
        "r2mae",
    )
    for text in (*rows, "unigram entropy", "Positive control NOT met (met on 0 of 3, needed on 2)"):
        assert text in out
    assert (tmp_path / "run" / "figures" / "demo.png").stat().st_size > 30_000
    records = read_records("run")
    assert Counter(r.scheme for r in records if r.metric == "auroc") == dict.fromkeys(rows, 3)
    assert len([r for r in records if r.metric == "loss@0.15"]) == 5
    before = (tmp_path / "run" / "results.json").read_bytes()
    assert call("demo", "--steps=8", "--seeds=[0]", "--labels=64", "--device=cpu", "--out=run")[0] == 0
    assert (tmp_path / "run" / "results.json").read_bytes() == before  # nothing is done again


@pytest.mark.parametrize(("failing", "met"), [(0, True), (1, True), (2, False)])
def test_every_scheme_must_be_above_both_controls_on_two_tasks(failing, met):
    rows = dict.fromkeys(SCHEMES, 0.65) | {"no pretraining": 0.57, "shuffled weights": 0.57}
    records = [
        Record(task, "auroc", value - 0.08 * (name == "mdlm" and i < failing) + 0.01 * seed, name, seed, 100)
        for i, task in enumerate(("a", "b", "c"))
        for name, value in rows.items()
        for seed in range(3)
    ]
    assert verdict(records).met == met
    assert not verdict([record for record in records if record.seed < 2]).met  # two seeds are too few


def test_swapped_words_are_marked():
    rng = np.random.default_rng(0)
    for _ in range(50):
        words, labels = swapped(SENTENCE, rng)
        first, second = np.flatnonzero(np.array(labels) == "swapped").tolist()
        assert second == first + 1
        assert words != SENTENCE
        words[first], words[second] = words[second], words[first]
        assert words == SENTENCE
        assert plain(words[first])
        assert plain(words[second])
    assert swapped(["Here", "that", "that", "Is"], rng) is None  # equal words, and words with capitals


def test_replaced_words_are_marked():
    rng = np.random.default_rng(0)
    for _ in range(50):
        words, labels = replaced(SENTENCE, ["treasury", "navy"], rng)
        differing = [i for i, (a, b) in enumerate(zip(words, SENTENCE, strict=True)) if a != b]
        assert [i for i, label in enumerate(labels) if label == "replaced"] == differing
        assert len(differing) == 1
        assert plain(SENTENCE[differing[0]])
    assert replaced(["The", "Navy."], ["treasury"], rng) is None


def test_commas_are_taken_away_and_marked():
    words, labels = commas(SENTENCE)
    assert "," not in "".join(words)
    assert [word for word, label in zip(words, labels, strict=True) if label == "comma"] == ["Congress", "here"]
    assert commas(["No", "mark", "here."]) is None


def test_tasks_are_of_whole_sentences_and_splits_of_different_speeches(speeches, tmp_path):
    write_tasks(speeches, tmp_path / "tasks", 20, 10)
    texts = [
        {" ".join(word.removesuffix(",") for word in s) for s in sentences(f.read_text("utf-8"))} for f in speeches
    ]
    for name in TASKS:
        for split, n, mine, others in (
            ("train", 20, texts[::2], texts[1::2]),
            ("validation", 10, texts[1::2], texts[::2]),
        ):
            rows = [
                json.loads(line) for line in (tmp_path / "tasks" / name / f"{split}.jsonl").read_text().splitlines()
            ]
            assert len(rows) == n
            assert all(len(row["tokens"]) == len(row["label"]) for row in rows)
            if name == "commas":  # these can be told without undoing anything
                found = {" ".join(row["tokens"]) for row in rows}
                assert found <= set().union(*mine)
                assert not found & (set().union(*others) - set().union(*mine))
    before = (tmp_path / "tasks" / "swapped" / "train.jsonl").read_bytes()
    write_tasks(speeches, tmp_path / "again", 20, 10)
    assert (tmp_path / "again" / "swapped" / "train.jsonl").read_bytes() == before


def test_states_of_words_are_those_of_each_sentence_alone(tiny, tokenizer, speeches, tmp_path):
    write_tasks(speeches, tmp_path, 40, 30)
    examples = load_task("swapped", str(tmp_path), ("tokens",), kind="token_classification")[1]["validation"]
    data, encoder = encode(tokenizer, examples, 128), tiny.base_model.eval()
    states = word_states(encoder, data, tokenizer.pad_token_id, "cpu", batch_size=7)
    alone = []
    for words in examples.texts[0]:
        ids = tokenizer(" ".join(words), return_offsets_mapping=True)
        starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
        with torch.no_grad():
            hidden = encoder(torch.tensor([ids["input_ids"]])).last_hidden_state[0].numpy()
        ends = [end for _, end in ids["offset_mapping"]]
        alone += [hidden[next(i for i, end in enumerate(ends) if end > start)] for start in starts]
    np.testing.assert_allclose(states, np.array(alone), atol=2e-5)


class Telling(torch.nn.Module):
    """An encoder that shows, or hides, whether a token is of the vocabulary's upper half."""

    def __init__(self, tells: bool) -> None:
        super().__init__()
        self.tells = tells

    def forward(self, input_ids, attention_mask):
        state = torch.stack([input_ids * 0, input_ids % 7], -1).float()
        state[..., 0] = (input_ids >= 200).float() if self.tells else 0.0
        return type("Output", (), {"last_hidden_state": state})


def test_probe_finds_what_the_states_tell_and_nothing_else(tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    pieces = [
        i for i in range(len(tokenizer)) if (word := tokenizer.decode([i])).startswith(" ") and word[1:].isalpha()
    ]
    for split in ("train", "validation"):
        rows = []
        for chosen in rng.choice(pieces, (60, 9)).tolist():
            words = [tokenizer.decode([i])[1:] for i in chosen]
            firsts = [tokenizer(" " + word, add_special_tokens=False)["input_ids"][0] for word in words]
            firsts[0] = tokenizer(words[0], add_special_tokens=False)["input_ids"][0]  # without a space before it
            rows.append({"tokens": words, "label": ["up" if i >= 200 else "low" for i in firsts]})
        (tmp_path / "half").mkdir(exist_ok=True)
        (tmp_path / "half" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [told] = probe_model(Telling(True), tokenizer, tmp_path, "row", 3, "cpu")
    [not_told] = probe_model(Telling(False), tokenizer, tmp_path, "row", 3, "cpu")
    assert (told.value, told.n, told.scheme, told.seed) == (1.0, 540, "row", 3)
    assert 0.35 < not_told.value < 0.65
    [words] = probe_words(tmp_path, "words")
    assert words.value > 0.95  # which word it is says all


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match=r"r2mae-text\[demo\]"):
        probe_words(tmp_path, "words")
