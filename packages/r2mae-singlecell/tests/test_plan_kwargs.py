"""What scvi-tools' `train` takes besides: the learning-rate plateau, the last batch, names that mean nothing here."""

import numpy as np
import pytest
import torch

from r2mae_core import UserError
from r2mae_singlecell.plateau import Plateau, PlateauSteps
from r2mae_singlecell.training_history import History

PLATEAU = {"reduce_lr_on_plateau": True, "lr_patience": 0, "lr_factor": 0.5, "lr_threshold": 10.0, "lr_min": 1e-4}


def test_the_learning_rate_falls_as_torchs_scheduler_says(adata, train):
    model = train(adata, max_epochs=6, plan_kwargs=PLATEAU)
    # Nothing improves by ten: after the first epoch the rate halves each time, until the lowest.
    assert np.allclose(model.history["lr"].to_numpy(float).ravel(), [1e-3, 5e-4, 2.5e-4, 1.25e-4, 1e-4, 1e-4])
    assert len(model.history["validation_loss"]) == 6


def test_a_plateau_resumes_to_the_bit(make_adata, train, same_weights, tmp_path):
    def run(max_epochs, **more):
        return train(make_adata(), max_epochs=6, plan_kwargs=PLATEAU | {"lr_patience": 1}, **more)

    whole = run(6)
    for steps in (3, 7):  # Lightning's own step of the scheduler would be lost between two of them
        train(
            make_adata(), max_epochs=6, max_steps=steps, plan_kwargs=PLATEAU | {"lr_patience": 1},
            resume=tmp_path / f"{steps}",
        )  # fmt: skip
        assert same_weights(whole, run(6, resume=tmp_path / f"{steps}"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr_scheduler_metric": "elbo_validation"}, "is not computed by R2MAE.*watch one of validation_loss"),
        ({"lr_factor": 1.5}, "lr_factor must be between 0 and 1"),
        ({"n_epochs_kl_warmup": 10}, "'n_epochs_kl_warmup', which R2MAE does not use: it has no KL term"),
        ({"optimizer": "AdamW"}, "it trains with Adam"),
        ({"lr_patiense": 3}, "did you mean 'lr_patience'"),
        ({"frobnicate": 3}, "'frobnicate', which R2MAE does not use: known: .*lr, "),
    ],
)
def test_plan_kwargs_that_mean_nothing(adata, train, kwargs, message):
    with pytest.raises(UserError, match=message):
        train(adata, plan_kwargs={"reduce_lr_on_plateau": True, **kwargs})


@pytest.mark.filterwarnings("ignore:Total length of .list.")
def test_a_plateau_without_validation(adata, train):
    with pytest.raises(UserError, match="watches validation_loss, which was not computed"):
        train(adata, plan_kwargs=PLATEAU, train_size=1.0)
    model = train(adata, plan_kwargs=PLATEAU | {"lr_scheduler_metric": "train_loss"}, train_size=1.0)
    assert len(model.history["lr"]) == 3


def test_state_is_plain_and_whole():
    def steps(losses, kept=None):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        plateau = PlateauSteps(Plateau(0.5, 1))
        if kept is not None:
            plateau.load(kept[0])
            optimizer.param_groups[0]["lr"] = kept[1]
        plateau.begin(optimizer)
        rates = [plateau.end_epoch({"validation_loss": loss}) for loss in losses]
        return rates, (plateau.state(), rates[-1])

    losses = [3.0, 2.0, 2.5, 2.5, 2.5, 1.9, 2.0, 2.0, 2.0]
    whole, _ = steps(losses)
    for cut in range(1, len(losses)):
        first, kept = steps(losses[:cut])
        assert first + steps(losses[cut:], kept)[0] == whole
        assert all(type(value) in (int, float) for value in kept[0].values())


@pytest.mark.parametrize(("drop_last", "steps"), [(None, 3), (True, 3), (False, 4)])
def test_drop_last(adata, train, drop_last, steps):
    given = {} if drop_last is None else {"drop_last": drop_last}
    model = train(adata, max_epochs=1, batch_size=32, datasplitter_kwargs=given)  # 108 training cells
    assert model.trainer.global_step == steps


def test_a_last_batch_of_one(adata, train):
    with pytest.raises(UserError, match=r"drop_last=False the last batch of 97 cells in batches of 32 has one cell"):
        train(adata, train_size=97 / 120, datasplitter_kwargs={"drop_last": False})
    with pytest.raises(UserError, match=r"datasplitter_kwargs has 'droplast'.*did you mean 'drop_last'"):
        train(adata, datasplitter_kwargs={"droplast": False})


def test_history_names_what_to_look_at(adata, train):
    history = train(adata, max_epochs=1).history
    assert isinstance(history, History)
    for key, right in (("elbo_train", "train_loss"), ("elbo_validation", "validation_loss"), ("kl_x", "train_loss")):
        with pytest.raises(KeyError, match=rf"history\['{right}'\]"):
            history[key]
    with pytest.raises(KeyError, match="validation was off: check_val_every_n_epoch=1"):
        history["elbo_validation"]
    assert "elbo_train" not in history
    assert history.get("elbo_train") is None
    assert history["train_loss"].shape == (1, 1)


def test_configs_are_heeded(adata, train, make_adata, same_weights):
    """What `plan_config` and `trainer_config` set counts; what is given by name goes before it."""
    named = train(adata, max_epochs=4, plan_kwargs={"lr": 0.01}, check_val_every_n_epoch=2, gradient_clip_val=0.1)
    configs = {"plan_config": {"lr": 0.01}, "trainer_config": {"check_val_every_n_epoch": 2, "gradient_clip_val": 0.1}}
    model = train(make_adata(), max_epochs=4, **configs)
    assert same_weights(model, named)
    assert len(model.history["validation_loss"]) == 2
    plateau = {"plan_config": PLATEAU, "trainer_config": {"check_val_every_n_epoch": 2}}
    with pytest.raises(UserError, match="watches validation_loss, which was not computed"):
        train(make_adata(), **plateau)
    assert len(train(make_adata(), **plateau, check_val_every_n_epoch=1).history["validation_loss"]) == 3
    first = train(make_adata(), max_epochs=4, plan_config={"lr": 0.5}, plan_kwargs={"lr": 0.01}, gradient_clip_val=0.1)
    assert same_weights(first, named)


def test_objects_of_scvi(adata, train, make_adata):
    from scvi.train import TrainerConfig, TrainingPlanConfig

    found = train(adata, max_epochs=4, trainer_config=TrainerConfig(check_val_every_n_epoch=2)).history
    assert len(found["validation_loss"]) == 2
    with pytest.raises(UserError, match=r"plan_config=TrainingPlanConfig\(...\) carries SCVI's defaults"):
        train(make_adata(), plan_config=TrainingPlanConfig(lr=0.01))


@pytest.mark.parametrize(
    ("name", "value"),
    [("early_stopping", True), ("max_epochs", 7), ("precision", "bf16-mixed"), ("devices", 2), ("accelerator", "gpu")],
)
def test_a_config_cannot_set_an_argument(adata, train, name, value):
    with pytest.raises(UserError, match=rf"trainer_config sets {name}, .*call train\({name}={value!r}\)"):
        train(adata, trainer_config={name: value})


@pytest.mark.parametrize("name", ["lacking", "candidates", "groups"])
def test_what_the_training_itself_decides(adata, train, name):
    with pytest.raises(UserError, match=f"'{name}', which R2MAE does not use"):
        train(adata, plan_kwargs={name: None})
