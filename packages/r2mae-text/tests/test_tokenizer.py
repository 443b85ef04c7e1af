"""What names a tokenizer."""

import copy

from r2mae_text.tokenizer import digest


def test_the_digest_names_the_ids_and_not_how_batches_are_made(tokenizer):
    plain = copy.deepcopy(tokenizer)
    before = digest(plain)
    plain(["one", "one two three"], padding=True, truncation=True, max_length=4)  # both stay set
    assert plain.backend_tokenizer.truncation is not None
    assert digest(plain) == before
    assert plain.backend_tokenizer.truncation is not None  # it is looked at, not changed
    plain.add_tokens(["zebra"])
    assert digest(plain) != before
