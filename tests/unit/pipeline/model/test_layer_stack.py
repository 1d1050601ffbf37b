import pytest
import torch

from pipeline import ZImagePipeline


@torch.inference_mode()
@pytest.mark.parametrize("captions", [[9], [5, 40]])
def test_the_stack_can_be_cut_anywhere(small: ZImagePipeline, captions: list[int]) -> None:
    model, layers = small.transformer, small.transformer.params.num_layers
    conditioning = model.prepare([torch.randn(tokens, 48) for tokens in captions], 8, 6)
    latents = torch.randn(len(captions), 16, 8, 6)
    x, time = model.embed(latents, torch.tensor([0.3]), conditioning.caption, conditioning.image_rope)
    whole = model.stack.run(x, time, conditioning, 0, layers)

    for cut in range(layers + 1):
        first = model.stack.run(x, time, conditioning, 0, cut)
        assert torch.equal(model.stack.run(first, time, conditioning, cut, layers), whole)
    assert not torch.equal(whole, x)
