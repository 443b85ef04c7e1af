"""Jobs of r2mae-vision."""

from pathlib import Path

from tools.reliability.job import Job
from tools.reliability.jobs.changes import copy, put, remove

_VIT = (
    "--model vit_tiny_patch16_224 --image_size 8 --patch_size 2 --no-flip --decoder_dim 16 --decoder_depth 1 "
    "--decoder_heads 2 --model_args '{depth: 1, embed_dim: 24, num_heads: 3}'"
)
_TRAIN = "--epochs 3 --batch_size 64 --micro_batch_size 32 --lr 1e-3 --warmup 0 --device cpu --no-progress"
_OFTEN = "--checkpoint_every 7 --validate_every 6 --log_every 5"
_MLP = "--n_hidden [24,12] --epochs 3 --device cpu --no-progress"
_TUNE = "--epochs 2 --warmup 0 --batch_size 64 --micro_batch_size 32 --auto_augment none --max_train 128"
_CELEBA = "--side 16 --base_channels [2] --ratios [0.5] --ranges [[0.3,0.7]] --seeds [0] --epochs 2 --batch_size 16"


def materials(folder: Path) -> None:
    """Write the digits as pictures in class folders, and faces with CelebA's lists."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for name, shift in (("images", 0), ("other-images", 1)):
        for i in range(820):
            part = "val" if i >= 700 else "train"
            file = folder / name / part / f"digit-{digits.target[i + shift]}" / f"{i:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[i + shift] * 255 / 16).astype("uint8")).save(file)
    _write_faces(folder / "celeba", 48)


def _write_faces(folder: Path, n: int) -> None:
    import numpy as np
    from PIL import Image

    from r2mae_vision.celeba.lists import N_ATTRIBUTES

    draw = np.random.default_rng(0)
    (folder / "img_align_celeba").mkdir(parents=True)
    files = [f"{i + 1:06}.jpg" for i in range(n)]
    for file in files:
        pixels = draw.integers(0, 255, (11, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((178, 218)).save(folder / "img_align_celeba" / file)
    rows = [f"{file} " + " ".join(map(str, draw.choice([-1, 1], N_ATTRIBUTES))) for file in files]
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join([str(n), " ".join(f"Attribute_{i}" for i in range(N_ATTRIBUTES)), *rows]) + "\n"
    )
    parts = [f"{file} {0 if i < n - 16 else 1 if i < n - 8 else 2}" for i, file in enumerate(files)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


def _add_class(folder: Path) -> None:
    for part in ("train", "val"):
        copy("images/train/digit-1/0001.png", f"images/{part}/a-new-class/0001.png")(folder)


def jobs() -> list[Job]:
    """Return what is tried."""
    some = "images/train/digit-1/0001.png"
    images = {
        "a class that sorts first": _add_class,
        "a file less": remove(some),
        "another picture under the name": copy("images/train/digit-2/0002.png", some),
    }
    prepare = "prepare images --image_size 8 --in_chans 1 --no-progress --workers"
    store, run = {"another store": put("store", "other-store")}, {"another model": put("run", "other-run")}
    pretrain = f"pretrain store {_VIT} {_TRAIN} {_OFTEN}"
    tune = f"finetune run store {_TUNE} --crop_pct 1 --no-flip --seeds [0,1] --device cpu --no-progress --workers 0"
    probe = "probe run --epochs 3 --crop_pct 1 --device cpu --no-progress --workers 0"
    mnist = "reproduce-mnist fig2a --data digits --ratios [0.5] --ranges [[0.1,0.5]] --n_hidden [8] --n_latent [4]"
    options = "{image_size: 8, patch_size: 2, decoder_dim: 16, decoder_depth: 1, decoder_heads: 2, batch_size: 64, "
    options += "flip: false, model: vit_tiny_patch16_224, model_args: {depth: 1, embed_dim: 24, num_heads: 3}}"
    table = (
        "reproduce table1 --data store --schemes [fixed,r2mae] --epochs 1 --seeds [0] --evaluate [probe] "
        f"--pretrain '{options}' --probe '{{epochs: 2, workers: 0}}'"
    )
    faces = f"reproduce-celeba fig5 --data celeba --cache place/cache --workers 1 {_CELEBA}"
    return [
        Job("vision", "prepare", f"{prepare} 1", ("images",), "store", "--fit squash --image_size 6", images,
            ("--in_chans 2", "--image_size 0"), kills=5, disk=True),
        Job("vision", "prepare with workers", f"{prepare} 2", ("images",), "store2", kills=2, cold=True, damage=False),
        Job("vision", "prepare others", prepare.replace(" images", " other-images") + " 1", ("other-images",),
            "other-store", maker=True),
        Job("vision", "pretrain", pretrain, ("store",), "run", "--seed 1", store,
            ("--mask_ratio nonsense", "--micro_batch_size 5", "--device cuda"), kills=10, disk=True),
        Job("vision", "pretrain on two devices", f"{pretrain} --devices 2", ("store",), "run2", kills=3, cold=True,
            damage=False),
        Job("vision", "pretrain another", f"{pretrain} --seed 7", ("store",), "other-run", maker=True),
        Job("vision", "pretrain-mlp", f"pretrain-mlp digits {_MLP}", (), "mlp", "--seed 1",
            mistakes=("--mask_ratio nonsense",), kills=3, disk=True),
        Job("vision", "finetune", tune, ("run", "store"), "tuned", "--base_lr 1e-2", run | store,
            ("--micro_batch_size 5",), kills=5, disk=True),
        Job("vision", "probe", probe, ("run", "store"), "probed", "--k [3]", run | store, kills=2),
        Job("vision", "reconstruct", "reconstruct run --n_images 2 --device cpu", ("run", "store"), "picture.png",
            disk=True),
        Job("vision", "export", "export run", ("run",), "exported", changes=run, disk=True),
        Job("vision", "reproduce-mnist", f"{mnist} --epochs 1 --seeds [0,1] --device cpu --no-progress", (), "figure",
            kills=2, damage=False),
        Job("vision", "reproduce", f"{table} --device cpu --no-progress", ("store",), "table", changes=store, kills=2,
            damage=False),
        Job("vision", "reproduce-celeba", f"{faces} --device cpu --no-progress", ("celeba",), "faces",
            changes={"a picture": copy("celeba/img_align_celeba/000002.jpg", "celeba/img_align_celeba/000001.jpg")},
            kills=2, damage=False),
        Job("vision", "compare", "compare run probed tuned", ("run", "probed", "tuned")),
    ]  # fmt: skip
