"""Training and held-out images that belong together: their parts, their classes in one order, what names them."""

import unicodedata
from dataclasses import replace

import numpy as np

from r2mae_core import UserError
from r2mae_vision.data.decoding import Reading
from r2mae_vision.data.image_files import ImageFiles
from r2mae_vision.data.labels import Columns
from r2mae_vision.data.multilabel import classes_with_images, is_multi, unlabelled
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sources import AS_IT_IS, HowToOpen, NoValidationError, Source, open_source, single_part, takes
from r2mae_vision.data.store import ImageStore


def held_out(spec: str, how: HowToOpen = AS_IT_IS) -> tuple[Source, str]:
    """Return the validation part of what `data` names, or the training part if it has no other, and which it is."""
    try:
        return open_source(spec, "val", how), "validation"
    except NoValidationError:
        return open_source(spec, "train", how), "train"


def open_pair(spec: str, validation: str | None = None, how: HowToOpen = AS_IT_IS) -> tuple[Source, Source]:
    """Open training and validation part, whose labels are needed.

    Raises:
        UserError: a class of the validation part is unknown to the training part, or images have no labels.
    """
    train, valid = open_parts(spec, validation, how)
    for name, part in (("training", train), ("validation", valid)):
        if n := int(unlabelled(part.labels).sum()):
            why = " (an empty cell is no label; with a column of 0 and 1 for each class, --label_columns, an image may "
            why = f"{why}have none of the classes)" if is_multi(part.labels) else ""
            if not part.classes and not how.named and "label_column" in takes(spec):
                why = "; name their column with --label_column" if "labels" not in takes(spec) else ""
            raise UserError(f"{n} of {len(part)} {name} images of {spec} have no label{why}; labels are needed here")
    if not train.classes:
        raise UserError(f"{spec} has no classes; labels are needed here")
    return train, valid


def open_parts(spec: str, validation: str | None = None, how: HowToOpen = AS_IT_IS) -> tuple[Source, Source]:
    """Open training and validation part, with labels or without, numbered alike.

    Raises:
        UserError: a class of the validation part is unknown to the training part.
        NoValidationError: there is no validation part.
    """
    part = "val" if validation is None else single_part(validation)
    train = open_source(spec, "train", how)
    reading = train.how if isinstance(train, ImageFiles) else Reading.of_deep_range(train.deep_range)
    as_train = replace(how, reading=reading) if reading != Reading() else how
    if validation is not None and not set(how.named) <= set(takes(validation)):
        as_train = replace(as_train, columns=Columns(), labels=None)  # they are of the training part alone
    valid = open_source(validation or spec, part, as_train)
    if validation is not None and valid.identity == train.identity:
        say_once(f"{spec}: the validation images are the training images; what is measured on them says little")
    there, other = train.deep_range, valid.deep_range
    if there and other and there[:2] != other[:2]:
        raise UserError(
            f"black and white are {there[0]:g} … {there[1]:g} in {train.name} and {other[0]:g} … {other[1]:g} in "
            f"{valid.name}: prepare both with one --range"
        )
    several, as_well = is_multi(train.labels), is_multi(valid.labels)
    if several and not as_well and not valid.classes:
        valid = replace(valid, labels=np.full((len(valid), len(train.classes)), -1, np.int8))
    elif several != as_well and train.classes and valid.classes:
        raise UserError(
            f"an image has several classes in {train.name if several else valid.name}, and one in "
            f"{valid.name if several else train.name}: labels do not fit"
        )
    if train.classes == valid.classes:
        _say_missing(train, valid)
        return train, valid
    if not valid.classes:
        say_once(f"{valid.name}: the validation images have no labels, the {len(train.classes)} classes are training's")
        return train, replace(valid, classes=train.classes)
    if unknown := sorted(set(valid.classes) - set(train.classes)):
        shown = ", ".join(unknown[:5])
        alike, composed = (
            {of(name) for name in train.classes} & {of(name) for name in unknown}
            for of in (str.casefold, lambda name: unicodedata.normalize("NFC", name))
        )
        why = (
            "; names must agree in case, too" if alike else "; a letter is composed otherwise there" if composed else ""
        )
        raise UserError(
            f"validation has {len(unknown)} classes that training does not have ({shown}{why}): labels do not fit"
        )
    missing = sorted(set(train.classes) - set(valid.classes))
    shown = f"{', '.join(missing[:5])}{', …' if missing[5:] else ''}"
    if isinstance(valid, ImageStore):
        raise UserError(
            f"training has {len(train.classes)} classes and validation {len(valid.classes)} ({shown} is missing "
            "there): labels do not fit"
        )
    valid = valid.with_classes(train.classes)
    _say_missing(train, valid)
    return train, valid


def _say_missing(train: Source, valid: Source) -> None:
    """Say which classes have no validation images, and refuse those that have only these.

    Raises:
        UserError: a class has validation images and no training image.
    """
    trained, held_out = (classes_with_images(part.labels) for part in (train, valid))
    names = [[train.classes[i] for i in sorted(some)] for some in (held_out - trained, trained - held_out)]
    shown, missing = (f"{', '.join(some[:5])}{', …' if some[5:] else ''}" for some in names)
    if shown and trained:
        raise UserError(f"classes with validation images but no training image: {shown}: labels do not fit")
    if missing and held_out:
        n = len(names[1])
        say_once(f"{valid.name}: {n} of {len(train.classes)} classes have no validation images: {missing}")


def identity(train: Source, held_out: Source | None) -> dict[str, str]:
    """Return what names a run's data: content, or names, sizes and times of files; never their place."""
    found = {f"training data {name}": value for name, value in train.identity.items()}
    if held_out is not None:
        found |= {f"held-out data {name}": value for name, value in held_out.identity.items()}
    return found
