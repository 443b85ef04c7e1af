"""How many tokens and words a model takes is asked of the model itself."""

from pathlib import Path

import pytest
import torch

from r2mae_text import build_model, export_run
from r2mae_text.export import fill
from r2mae_text.masking import MaskingRule
from r2mae_text.model import usable_positions
from r2mae_text.tokenizer import vocabulary_size

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
FAMILIES = {
    "bert": {}, "roberta": {}, "camembert": {}, "xlm-roberta": {}, "xlm-roberta-xl": {}, "roberta-prelayernorm": {},
    "data2vec-text": {}, "mpnet": {}, "esm": {"position_embedding_type": "absolute"}, "xmod": {"languages": ["en_XX"],
    "default_language": "en_XX"}, "ibert": {}, "luke": {}, "electra": {"embedding_size": 32}, "megatron-bert": {},
    "albert": {"embedding_size": 32}, "longformer": {"attention_window": [4]}, "nystromformer": {},
    "rembert": {"input_embedding_size": 32},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_usable_position_works_and_the_next_does_not(family):
    from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

    config = CONFIG_MAPPING[family](
        **SMALL, vocab_size=60, max_position_embeddings=26, pad_token_id=1, **FAMILIES[family]
    )
    model = AutoModelForMaskedLM.from_config(config).eval()
    usable = usable_positions(config)
    assert usable >= 20

    def run(n):
        ids = torch.full((1, n), 9)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape[1]

    assert run(usable) == usable
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        run(usable + 1)


def test_a_pipeline_cuts_what_the_export_cannot_take(tokenizer):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    model = build_model("tiny", tokenizer, length=16, model_args={**SMALL, "max_position_embeddings": 18})
    before = tokenizer.model_max_length
    folder = export_run(model, tokenizer, Path("model"))
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 16
    assert tokenizer.model_max_length == before
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    classify = pipeline("text-classification", model=classifier, tokenizer=AutoTokenizer.from_pretrained(folder))
    assert classify("the union " * 90, truncation=True)


def test_a_vocabulary_with_a_gap_has_a_row_for_its_last_id(tokenizer):
    import json

    from r2mae_text import load_pretrained, load_tokenizer

    folder = Path("gap")
    tokenizer.save_pretrained(folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["vocab"]["Ġunheardof"] = 450  # 400 entries before it, up to 399
    (folder / "tokenizer.json").write_text(json.dumps(state))
    gap = load_tokenizer(folder)
    assert (len(gap), vocabulary_size(gap)) == (401, 451)
    model = build_model("tiny", gap, model_args=SMALL)
    assert model(torch.tensor([[0, 450, 2]])).logits.shape[-1] == 451
    assert MaskingRule.of(gap).vocab_size == 451
    again, _ = load_pretrained(export_run(model, gap, Path("model")))
    assert again.config.vocab_size == 451
    assert fill(again, gap, "The <mask> of")
