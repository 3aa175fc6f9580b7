"""What the exercises' checks refuse, and in which words."""

import pytest
import torch

from lab import check, objectives
from lab.objectives import gae as under_another_name
from lab.objectives import whiten


class SaysYes:
    """Passes any comparison that it is asked for."""

    shape, dtype = torch.Size([2]), torch.float32

    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return lambda *args, **kwargs: self


def refused(call, *arguments):
    """The sentence of a check that fails."""
    with pytest.raises(AssertionError) as caught:
        call(*arguments, "the answer")
    assert str(caught.value).startswith("the answer")
    return str(caught.value)


def test_what_is_right_passes_silently(capsys):
    check.number(0.1 + 0.2, 0.3, "the answer")
    check.number(torch.tensor([0.3]), 0.3, "the answer")
    check.tensor(torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, 2.0]), "the answer")
    check.tensor(torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), "the answer")
    check.equal({"a": [1, (2, {3})]}, {"a": [1, (2, {3})]}, "the answer")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("yours", [None, SaysYes(), "0.3", True, torch.ones(2), 0.31, float("nan"), float("inf"), 0.3j])
def test_what_is_not_the_number(yours):
    refused(check.number, yours, 0.3)


@pytest.mark.parametrize("yours", [None, SaysYes(), [1.0, 0.0], torch.ones(3), torch.ones(1, 2), torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 0.01]),
                                   torch.tensor([True, False]), torch.tensor([1.0 + 5j, 0.0])])
def test_what_is_not_the_tensor(yours):
    refused(check.tensor, yours, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("yours, expected", [(1, True), (1.0, 1), ([1], (1,)), ([1, 2], [1]), ({1.0}, {1}), ({True: "a"}, {1: "a"}), ({"a": [1.0]}, {"a": [1]}), (SaysYes(), 3)])
def test_what_is_not_equal(yours, expected):
    refused(check.equal, yours, expected)


def test_the_message_says_where():
    assert refused(check.equal, {"a": [1, 3]}, {"a": [1, 2]}) == "the answer, under 'a', element 1 should be 2, yours is 3"
    assert "differs in 1 of 2 places, first at (1,)" in refused(check.tensor, torch.tensor([0.0, 1.0]), torch.zeros(2))


def test_the_packages_own_function_is_out_of_reach_under_any_name_and_comes_back():
    arguments = torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2), 1.0, 1.0
    with check.without("lab.objectives.gae"):
        for function in (objectives.gae, under_another_name):
            with pytest.raises(AssertionError, match="ready-made"):
                function(*arguments)
        whiten(torch.ones(1, 3), torch.ones(1, 3))  # the others stay
    torch.testing.assert_close(under_another_name(*arguments), torch.zeros(1, 2))


def test_classes_and_pythons_own_functions_are_out_of_reach_too():
    from lab.lora import LoRALinear

    for name, use in (("lab.lora.LoRALinear", lambda: LoRALinear(torch.nn.Linear(2, 2), 1, 1)), ("builtins.eval", lambda: eval("1"))):
        with check.without(name), pytest.raises(AssertionError, match="ready-made"):
            use()
        use()
