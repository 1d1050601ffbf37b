"""A chat template that never ends, or fills the memory, is told of, and takes neither time nor memory for long."""

import pytest

from pipeline.checkpoint import template_trial
from pipeline.checkpoint.template_trial import template_fault


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4, "takes longer than 0.5 s"),
        ("{{ messages[0].content * 2000000000 }}", "takes more than 1 GiB"),
        ("{{ eos_token }}{{ 'a' * 200000 }}", "gives 200007 characters for a prompt of 0"),
    ],
)
def test_what_can_t_be_rendered_is_one_line(template: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_trial, "CPU_SECONDS", 0.5)
    fault = template_fault(template, {"eos_token": "<|end|>"})
    assert fault is not None
    assert told in fault
    assert "\n" not in fault
