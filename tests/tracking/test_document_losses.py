"""The table of held-out documents: numbers by hand, the worst first, and figures that are none."""

import json
import math

import pytest

from prune_exp.measurement.records import DocumentQuality
from prune_exp.text.formats import split_into_documents
from prune_exp.tracking.document_losses import COLUMNS, tabulate_documents


def document(domain: str, place: int, dense: float, pruned: float) -> DocumentQuality:
    return DocumentQuality(
        domain=domain, place=place, tokens=10, dense_loss_nats=dense, pruned_loss_nats=pruned
    )


def test_the_document_that_adds_most_comes_first_of_each_text() -> None:
    found = tabulate_documents(
        [document("wiki", 0, 20, 21), document("wiki", 3, 20, 25), document("code", 1, 30, 29)]
    )
    assert found is not None
    assert list(found) == list(COLUMNS)
    assert found["text"] == ["code", "wiki", "wiki"]
    assert found["document"] == [6, 16, 1]
    rises = [math.log(ratio) for ratio in found["perplexity_ratio"]]
    assert rises == pytest.approx([-0.1, 0.5, 0.1], abs=1e-4)


def test_a_number_is_the_document_s_own_in_its_file() -> None:
    texts = split_into_documents("\n\n".join(f"text {number}" for number in range(1, 21)))
    heldout = texts[::5]
    found = tabulate_documents([document("a", place, 1, 2) for place in range(len(heldout))])
    assert found is not None
    assert [texts[number - 1] for number in found["document"]] == heldout


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_losses_that_are_no_numbers_come_first_and_are_valid_json(loss: float) -> None:
    found = tabulate_documents([document("a", 0, 1, 2), document("a", 1, 1, loss)])
    assert found is not None
    assert found["document"] == [6, 1]
    assert found["pruned_loss_nats"] == [None, 2]
    assert json.loads(json.dumps(found, allow_nan=False))


def test_nothing_was_judged() -> None:
    assert tabulate_documents([]) is None
