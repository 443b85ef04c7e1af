"""A model without torch, for the tests of sharing; as a script it talks to the hub that the environment names."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from r2mae_core import CardFacts, Command, PushOptions, SharedModel, UserError, push, write_json


class Line(SharedModel):
    hub_files = ("line.json",)

    def __init__(self, slope):
        self.slope = slope

    def write_pretrained(self, folder):
        write_json(folder / "line.json", {"slope": self.slope})
        (folder / "weights.safetensors").write_bytes(b"pretend " * 100)

    @classmethod
    def read_pretrained(cls, folder):
        return cls(json.loads((folder / "line.json").read_text())["slope"])

    def card_facts(self):
        return CardFacts(
            "A line.", "r2mae", {"r2mae": 'Line.from_pretrained("{name}")'}, ["It is straight."], task="fill-mask"
        )


def write_model(run, folder):
    slope = json.loads((run / "slope.json").read_text())
    line = Line(slope)
    line.write_pretrained(folder)
    return line.card_facts()


@dataclass(frozen=True)
class Pretrain:
    data: Path
    mask_ratio: str = "r2mae"
    lr: float = 0.1
    tree: Path | None = None


COMMANDS = {"pretrain": Command(Pretrain, "toy:none", "")}


def push_run(run, name, **options):
    return push(PushOptions(Path(run), name, **options), "r2mae-line", COMMANDS, write_model)


if __name__ == "__main__":  # a line is an expression; its value, or what was refused, is a line of JSON after "= "
    for expression in sys.stdin:
        try:
            found = eval(expression)
        except UserError as error:
            found = f"refused: {error}"
        sys.stdout.write(f"= {json.dumps(found)}\n")
        sys.stdout.flush()
