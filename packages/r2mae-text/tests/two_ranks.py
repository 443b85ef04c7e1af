"""One rank of the two-process test, run under torchrun."""

import os
import sys
from pathlib import Path

import torch

from r2mae_text.options import Pretrain


def settings(corpus, out, devices, strategy="auto", ratio_per="step"):
    args = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    return Pretrain(
        Path(corpus), model="tiny", model_args=args, length=32, batch_size=16, micro_batch_size=8, steps=4, lr=1e-2,
        dropout=0.0, device="cpu", devices=devices, strategy=strategy, out=Path(out), progress=False,
        log_every=1, validate_every=2, ratio_per=ratio_per,
    )  # fmt: skip


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    from r2mae_text.module import MaskedLanguageModule
    from r2mae_text.pretrain import pretrain

    corpus, out, strategy, ratio_per = sys.argv[1:]
    seen, original = [], MaskedLanguageModule.masked_loss

    def masked_loss(module, batch, draw):
        if not module.training:
            return original(module, batch, draw)
        state = draw.generator.get_state()
        inputs = module.mask(batch, draw).inputs.tolist()
        draw.generator.set_state(state)
        ratio = draw.ratio.tolist() if isinstance(draw.ratio, torch.Tensor) else draw.ratio
        seen.append((module.global_step, ratio, batch.tolist(), inputs))
        return original(module, batch, draw)

    MaskedLanguageModule.masked_loss = masked_loss
    pretrain(settings(corpus, Path(out) / strategy, 2, strategy, ratio_per))
    torch.save(seen, Path(out) / f"{strategy}-rank{os.environ['RANK']}.pt")
