"""A model that is asked without the harness, and the functions of the task files."""

import sys
from pathlib import Path

import torch
import transformers

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "common/evaluation/tasks"))
import local  # noqa: F401


class Plain:
    """A model asked without the harness."""

    def __init__(self, folder: Path):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def asked(self, context: str, continuation: str) -> tuple[float, bool]:
        """Log-likelihood of the continuation, and whether greedy decoding would give it."""
        before = self.tokenizer(context, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
        rows, targets = logits[len(before) - 1 :], torch.tensor(whole[len(before) :])
        likelihood = rows.gather(1, targets[:, None]).sum().item()
        return likelihood, bool((rows.argmax(-1) == targets).all())
