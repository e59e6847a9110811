"""Learning which content class a prompt is of, from labelled prompts, and measuring that on prompts it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from pabtune.records.classifiers import PromptClassifier, words_of
from pabtune.records.prompts import Prompt
from pabtune.records.splits import Split

MARGIN = float(np.log(3.0))
"""In nats: the best class must be three times as probable as the next one."""

FOLDS = 5

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of the squared weights, half a unit of which is added to the loss of the prompts, in nats; the best is found on folds."""

LEAST_WEIGHT = 0.05
"""Words that move no class by more, in nats, are left out: they say nothing, and a person has to read the others."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How prompts were classified whose content class is known.

    Attributes:
        right: prompts of which the class was told.
        wrong: prompts that were taken for another class.
        unknown: prompts of which no class was clear: they run under the general rules.
    """

    right: int
    wrong: int
    unknown: int

    @property
    def prompts(self) -> int:
        """All of them."""
        return self.right + self.wrong + self.unknown

    def to_document(self) -> dict[str, Any]:
        """The counts as JSON."""
        return {"prompts": self.prompts, "right": self.right, "wrong": self.wrong, "unknown": self.unknown}

    def __str__(self) -> str:
        return f"{self.right} of {self.prompts} right, {self.wrong} wrong, {self.unknown} left to the general rules"


def fit_on_split(prompts: Split, contents: Sequence[str]) -> tuple[PromptClassifier | None, Accuracy | None]:
    """A classifier fitted to the prompts to tune on and to validate with, and its accuracy on those to test with.

    Args:
        prompts: labelled by their content class.
        contents: the classes to tell apart.
    """
    classifier = fit_classifier((*prompts.tune, *prompts.validate), contents)
    return classifier, None if classifier is None else measure_classifier(classifier, prompts.test)


def fit_classifier(prompts: Sequence[Prompt], contents: Sequence[str]) -> PromptClassifier | None:
    """Fits a classifier to labelled prompts; the same prompts give the same one. None with fewer than two classes to tell.

    Args:
        prompts: labelled by their content class; those of other classes are left out.
        contents: the classes to tell apart; one without prompts is left out.
    """
    own = [prompt for prompt in prompts if prompt.content in contents]
    classes = [content for content in contents if any(prompt.content == content for prompt in own)]
    if len(classes) < 2:
        return None
    bags = [words_of(prompt.prompt) for prompt in own]
    vocabulary = sorted(frozenset().union(*bags))
    has_word_PW = np.array([[word in bag for word in vocabulary] for bag in bags], dtype=np.float64)
    labels_P = np.array([classes.index(prompt.content) for prompt in own])
    weights_WC, bias_C = fit_best(has_word_PW, labels_P, len(classes))
    weights_WC = weights_WC - weights_WC.mean(axis=1, keepdims=True)
    kept = np.abs(weights_WC).max(axis=1) > LEAST_WEIGHT
    return PromptClassifier(
        bias={content: round(float(bias_C[index] - bias_C.mean()), 3) for index, content in enumerate(classes)},
        words={
            content: {word: round(float(weights_WC[at, index]), 3) for at, word in enumerate(vocabulary) if kept[at]}
            for index, content in enumerate(classes)
        },
        margin=round(MARGIN, 3),
    )


def measure_classifier(classifier: PromptClassifier, prompts: Sequence[Prompt]) -> Accuracy:
    """Accuracy on labelled prompts; those of classes that the classifier does not know are left out.

    Args:
        classifier: the classifier.
        prompts: that it was not fitted to.
    """
    own = [prompt for prompt in prompts if prompt.content in classifier.bias]
    return accuracy_of([classifier.content_of(prompt.prompt) for prompt in own], [prompt.content for prompt in own])


def accuracy_of(told: Sequence[str | None], contents: Sequence[str]) -> Accuracy:
    """Accuracy of what was told of some prompts, whose classes are known."""
    right = sum(content == own for content, own in zip(told, contents, strict=True))
    unknown = sum(content is None for content in told)
    return Accuracy(right=right, wrong=len(contents) - right - unknown, unknown=unknown)


def fit_best(numbers_PW: Array, labels_P: NDArray[np.int64], classes: int) -> tuple[Array, Array]:
    """Weights (W, C) and biases (C,) of a logistic regression, with the penalty that is best on folds."""
    return _fit(numbers_PW, labels_P, classes, _best_penalty(numbers_PW, labels_P, classes))


def _best_penalty(has_word_PW: Array, labels_P: NDArray[np.int64], classes: int) -> float:
    """The penalty with the least loss on prompts that were left out of a fit, a fold at a time."""
    order = np.argsort(labels_P, kind="stable")
    folds = np.empty(len(order), dtype=int)
    folds[order] = np.arange(len(order)) % FOLDS  # each class is in all folds

    def loss(penalty: float) -> float:
        total = 0.0
        for fold in range(FOLDS):
            seen, unseen = folds != fold, folds == fold
            if not unseen.any() or not seen.any():
                continue
            weights_WC, bias_C = _fit(has_word_PW[seen], labels_P[seen], classes, penalty)
            total -= _log_probabilities(has_word_PW[unseen], labels_P[unseen], weights_WC, bias_C)
        return total

    return min(PENALTIES, key=loss)


def _log_probabilities(has_word_PW: Array, labels_P: NDArray[np.int64], weights_WC: Array, bias_C: Array) -> float:
    """Sum of the logarithms of the probabilities that the labels are given."""
    log_PC = log_softmax(has_word_PW @ weights_WC + bias_C, axis=1)
    return float(log_PC[np.arange(len(labels_P)), labels_P].sum())


def _fit(has_word_PW: Array, labels_P: NDArray[np.int64], classes: int, penalty: float) -> tuple[Array, Array]:
    """Weights of words (W, C) and biases (C,) of a logistic regression whose weights are penalized, not its biases."""
    words, label_PC = has_word_PW.shape[1], np.eye(classes)[labels_P]

    def loss(flat: Array) -> tuple[float, Array]:
        weights_WC, bias_C = flat[: words * classes].reshape(words, classes), flat[words * classes :]
        error_PC = softmax(has_word_PW @ weights_WC + bias_C, axis=1) - label_PC
        value = penalty / 2 * float((weights_WC**2).sum())
        value -= _log_probabilities(has_word_PW, labels_P, weights_WC, bias_C)
        gradient_WC = has_word_PW.T @ error_PC + penalty * weights_WC
        return value, np.concatenate([gradient_WC.ravel(), error_PC.sum(axis=0)])

    flat = minimize(loss, np.zeros((words + 1) * classes), jac=True, method="L-BFGS-B").x
    return flat[: words * classes].reshape(words, classes), flat[words * classes :]
