import pytest
import torch

from pipeline.formats.fp8 import E4M3
from pipeline.formats.number_format import QuantizationError
from pipeline.formats.registry import FORMATS, find, find_stored
from pipeline.formats.row_format import RowFormat


@pytest.mark.parametrize(("rows", "error"), [(E4M3, 2**-4), (RowFormat(torch.int8, 127.0), 0.5 / 127)])
def test_a_row_s_largest_value_is_kept_and_the_others_are_near(rows: RowFormat, error: float) -> None:
    x = torch.randn(32, 48) * torch.logspace(-6, 3, 32)[:, None]
    x[3] = 0

    found = rows.quantize(x)

    assert found.values.dtype == rows.dtype
    assert found.scales.shape == (32, 1)
    largest = x.abs().amax(1, keepdim=True)
    restored = found.dequantize(torch.float32)
    torch.testing.assert_close(restored.abs().amax(1, keepdim=True), largest, rtol=1e-6, atol=0)
    assert ((restored - x).abs() <= largest * error + 1e-12).all()


def test_formats_are_found_by_their_names_for_users_and_in_files() -> None:
    assert find(None) is None
    assert find("none") is None
    for name, number_format in FORMATS.items():
        assert find(name) is number_format
        assert find_stored(number_format.stored_as) is number_format
    assert find_stored("BF16") is None
    with pytest.raises(QuantizationError, match="quantization is 'int3', supported: None and 'fp8'"):
        find("int3")
