"""Terms in the loss: several that are computed together against the same ones alone."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from lstsd_hf import DistillationTerm, LSTSDConfig, Teacher
from tests.helpers import make_trainer, one_by_one

WEIGHTS = torch.tensor([4.0, 2.4], dtype=torch.float64)
SCALES = [1.0, 1, 0.5, torch.tensor(0.5), torch.full((2, 1), 0.5)]  # the last one under DataParallel


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("loss", [torch.tensor(0.3), torch.tensor([0.3, 0.5])])
def test_terms_together_are_the_sum_of_terms_alone(scale, loss):
    generator = torch.Generator().manual_seed(0)
    per_example = torch.rand(2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    together, means = DistillationTerm(per_example, WEIGHTS).added_to(loss, scale)
    alone, own_means = loss, []
    for term in one_by_one({("short", "long"): DistillationTerm(per_example, WEIGHTS)}).values():
        alone, mean = term.added_to(alone, scale)
        own_means.append(mean.mean())
    same = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-7, check_dtype=False)
    same(together.mean(), alone.mean())
    same(means.reshape(-1, 2).mean(dim=0), torch.stack(own_means))
    assert not means.requires_grad
    gradients = [torch.autograd.grad(value.mean(), per_example)[0] for value in (together, alone)]
    same(*gradients)
    factor = float(torch.as_tensor(scale).flatten()[0]) / 5
    same(gradients[0], (WEIGHTS * factor)[:, None].expand(2, 5))


@pytest.mark.parametrize(
    ("names", "weight"),
    [(("first", "second"), 1.0), (("first", "second", "third"), torch.ones(3)), (("first", "second"), torch.ones(3))],
)
def test_names_that_do_not_fit(make_args, names, weight):
    class Stacked(Teacher):
        def loss_terms(self, batch):
            return {names: DistillationTerm(batch.student_logits.square().mean(-1).expand(2, -1), weight)}

    with pytest.raises(
        TypeError, match=r"The terms `first` and `second`.* must have a tensor `weight` of shape \(\d,\) and"
    ):
        make_trainer(make_args, Stacked()).train()


@pytest.mark.parametrize("changed", [{"lambda_short": 0.25}, {"lambda_long": 0.0}])
def test_weights_that_are_changed_in_between_act_at_once(make_args, changed):
    trainer = make_trainer(make_args, LSTSDConfig(mini_generation_epochs=1), num_train_epochs=3)
    teacher, found = trainer.teacher, []
    loss_terms = teacher.loss_terms

    def spy(batch):
        terms = loss_terms(batch)
        found.append({name: term.weight for name, term in one_by_one(terms).items()})
        if len(found) == 6:  # in the middle of the second epoch
            teacher.config = replace(teacher.config, **changed)
        return terms

    teacher.loss_terms = spy
    trainer.train()
    before = {"short": 1.0, "long": 1.0}
    after = {name: weight for name in before if (weight := changed.get(f"lambda_{name}", 1.0))}
    assert found[:6] == [{}] * 4 + [before] * 2
    assert found[6:] == [after] * (len(found) - 6)
    assert len(found) == 12
