"""Which images could not be read."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from r2mae_core import read_text, say, write_text
from r2mae_vision.data.sources import Source


class UnreadableImages(pl.Callback):
    """Counts and names the images that could not be decoded; the file appears with the first of them.

    A run that goes on meets the same images again after its last checkpoint, so the file needs no place in it.
    """

    def __init__(self, source: Source, file: Path) -> None:
        self.source, self.file, self.seen = source, file, dict[str, None]()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_rank:
            self.file = self.file.with_stem(f"{self.file.stem}.rank{trainer.global_rank}")
        if not self.file.exists():
            return
        if trainer.global_step == 0:  # of a start that was cut off before its first checkpoint
            self.file.unlink()
            return
        whole = read_text(self.file).rpartition("\n")[0]  # a line may have been cut off
        self.seen.update(dict.fromkeys(whole.splitlines()))
        write_text(self.file, "".join(f"{name}\n" for name in self.seen))

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if len(batch) < 3 or not batch[2].numel():
            return
        found: Any = (self.source.file_name(index) for index in batch[2].tolist())  # pyright: ignore[reportAttributeAccessIssue]
        names = dict.fromkeys(str(name).encode("utf-8", "backslashreplace").decode() for name in found)
        if new := [name for name in names if name not in self.seen]:
            self.seen.update(dict.fromkeys(new))
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in new)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.seen:
            say(f"{len(self.seen):,} images could not be decoded and were replaced by their neighbours: {self.file}")
