"""transformers' Trainer with a scheme: the collator hides tokens by the ratio of the optimizer step."""

import tempfile

import numpy as np
from transformers import RobertaConfig, RobertaForMaskedLM, TrainingArguments

from r2mae_text import R2MAECollator, R2MAETrainer, load_tokenizer

tokenizer = load_tokenizer("gpt2")  # from the demo extra; needs no network
rng = np.random.default_rng(0)
words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "to", "the", "river"]
texts = [" ".join(rng.permutation(words)) for _ in range(64)]
rows = [{"input_ids": tokenizer(text, truncation=True, max_length=32)["input_ids"]} for text in texts]
model = RobertaForMaskedLM(
    RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        pad_token_id=tokenizer.pad_token_id,
    )
)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, max_steps=20, per_device_train_batch_size=16, learning_rate=5e-3, report_to="none", use_cpu=True,
        logging_steps=5, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = R2MAETrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=R2MAECollator(tokenizer, "r2mae", seed=0)
    )
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    after = trainer.evaluate(rows)["eval_loss"]
print(f"loss at ratio 0.15: {before:.3f} before, {after:.3f} after 20 steps")
assert after < before
