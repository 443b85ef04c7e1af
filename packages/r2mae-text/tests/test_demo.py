"""The demo, apart from the other commands: it takes long, and files run side by side."""

import copy
import json
from collections import Counter

import numpy as np
import pytest
import torch

from r2mae_core import Record, UserError, read_records
from r2mae_text.batching import encode
from r2mae_text.data.glue import load_task
from r2mae_text.demo_probe import probe_model, probe_words, shuffle_weights, word_states
from r2mae_text.demo_tasks import TASKS, commas, plain, replaced, sentences, swapped, write_tasks
from r2mae_text.demo_verdict import difference, judge

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
    for text in (*rows, "unigram entropy", "Pretraining shows on 0 of 3 tasks", "FAILED"):
        assert text in out
    assert (tmp_path / "run" / "figures" / "demo.png").stat().st_size > 30_000
    records = read_records("run")
    assert Counter(r.scheme for r in records if r.metric == "auroc") == dict.fromkeys(rows, 3)
    assert len([r for r in records if r.metric == "loss@0.15"]) == 5
    before = (tmp_path / "run" / "results.json").read_bytes()
    assert call("demo", "--steps=8", "--seeds=[0]", "--labels=64", "--device=cpu", "--out=run")[0] == 0
    assert (tmp_path / "run" / "results.json").read_bytes() == before  # nothing is done again


def scores(**rows):
    """Records of two tasks, from row → values of its seeds."""
    named = {"none": "no pretraining", "shuffled": "shuffled weights"}
    return [
        Record(task, "auroc", value, named.get(row, row), seed, 100)
        for task in ("a", "b")
        for row, values in rows.items()
        for seed, value in enumerate(values)
    ]


def verdict(**rows):
    schemes = [row for row in rows if row not in ("none", "shuffled")]
    return judge(scores(**rows), schemes, "no pretraining", "shuffled weights")


NONE, SHUFFLED, GOOD = (0.56, 0.57, 0.58), (0.565, 0.575, 0.57), (0.64, 0.65, 0.66)


def test_verdict_passes_models_that_learned():
    found = verdict(none=NONE, shuffled=SHUFFLED, fixed=GOOD, r2mae=GOOD)
    assert found.passed
    assert "FAILED" not in "".join(found.lines)
    assert "shows on 2 of 2" in found.lines[-1]


@pytest.mark.parametrize(
    "rows",
    [
        {"fixed": NONE, "r2mae": GOOD},  # one scheme has learned nothing
        {"fixed": GOOD, "r2mae": (0.58, 0.59, 0.60)},  # above, by less than two standard deviations
        {"fixed": GOOD, "r2mae": (0.45, 0.65, 0.85)},  # far above on the mean alone
        {"fixed": GOOD, "r2mae": (0.64, 0.65, float("nan"))},
        {"fixed": GOOD, "r2mae": GOOD, "shuffled": GOOD},  # what shuffled weights have too was not learned
        {"fixed": GOOD, "r2mae": GOOD, "shuffled": (0.55, 0.65, 0.75)},  # not clearly above them
        {"fixed": (0.94, 0.95, 0.96), "shuffled": (0.62, 0.63, 0.64)},  # the control itself gains
        {"fixed": GOOD[:1], "r2mae": GOOD[:1], "none": NONE[:1], "shuffled": SHUFFLED[:1]},  # one seed says nothing
    ],
)
def test_verdict_fails_loudly(rows):
    found = verdict(**{"none": NONE, "shuffled": SHUFFLED, **rows})
    assert not found.passed
    assert all("FAILED" in line for line in found.lines)
    assert "shows on 0 of 2" in found.lines[-1]


def test_difference_is_in_standard_deviations_of_two_single_runs():
    found = difference(GOOD, NONE)
    assert found.gain == pytest.approx(0.08)
    assert found.sd == pytest.approx(np.hypot(np.std(GOOD, ddof=1), np.std(NONE, ddof=1)))


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


def test_shuffled_weights_are_the_same_numbers_elsewhere(tiny):
    shuffled = shuffle_weights(copy.deepcopy(tiny), 0)
    for (name, before), after in zip(tiny.named_parameters(), shuffled.parameters(), strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values), name
        if before.ndim > 1 and before.shape[0] > 1:
            assert not torch.equal(before, after), name
    again = shuffle_weights(copy.deepcopy(tiny), 0)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), shuffled.parameters(), strict=True))


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match=r"r2mae-text\[demo\]"):
        probe_words(tmp_path, "words")
