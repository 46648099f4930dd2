import pytest
import torch

from bayesdrop.ops.smallest import smallest


def test_it_takes_the_share_rounded_down_of_each_row():
    values = torch.randn(4, 9).abs()
    for share, number in ((0.0, 0), (0.1, 0), (0.12, 1), (0.5, 4), (0.75, 6), (1.0, 9)):
        found = smallest(values, share)
        assert found.sum(1).tolist() == [number] * 4
        if 0 < number < 9:
            small, large = (torch.where(found == kept, values, 0.5) for kept in (True, False))
            largest = values.masked_fill(~found, 0.0).amax(1)
            assert bool((values.masked_fill(found, 9.0).amin(1) >= largest).all())
            assert small.shape == large.shape


def test_a_share_in_single_precision_is_not_rounded_to_one_less():
    values = torch.rand(500)
    for tenths in range(11):
        share = torch.tensor(tenths / 10, dtype=torch.float32)
        assert int(smallest(values, share).sum()) == 50 * tenths


def test_equals_of_the_last_count_too():
    assert smallest(torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.5).tolist() == [True] * 3 + [False]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 1.0])
def test_it_is_the_same_where_it_is_compiled(share, monkeypatch):
    magnitudes, share = torch.rand(3, 50).mul(20).round(), torch.tensor(share)
    expected = smallest(magnitudes, share), smallest(magnitudes[0], share)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(smallest(magnitudes, share), expected[0])
    assert torch.equal(smallest(magnitudes[0], share), expected[1])
