import torch

from mobilevd.training import seeds


def test_the_same_path_draws_the_same_numbers_and_any_other_path_others():
    first = torch.randn(4, generator=seeds.generator(1, "finetune", "step", 3))
    assert torch.equal(first, torch.randn(4, generator=seeds.generator(1, "finetune", "step", 3)))
    for other in [(2, "finetune", "step", 3), (1, "distill", "step", 3), (1, "finetune", "step", 4)]:
        assert not torch.equal(first, torch.randn(4, generator=seeds.generator(*other)))


def test_a_seed_does_not_depend_on_the_global_state():
    torch.manual_seed(0)
    first = seeds.derive(7, "x")
    torch.manual_seed(1)
    assert seeds.derive(7, "x") == first
    assert 0 <= first < 2**63
