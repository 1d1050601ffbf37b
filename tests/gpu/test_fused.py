"""The fused paths against the plain ones: the same weights, and errors no larger than bfloat16's own."""

import copy
import itertools
import statistics
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pipeline import TINY_CHECKPOINT, ZImagePipeline
from pipeline.checkpoint.components import Checkpoint
from pipeline.formats.fp8 import E4M3, FP8, Fp8Matrix
from pipeline.formats.number_format import NumberFormat
from pipeline.formats.row_format import RowFormat
from pipeline.matrices import places
from pipeline.model.autoencoder import Autoencoder, AutoencoderParams
from pipeline.model.text_encoder import TextEncoder
from pipeline.model.transformer import Transformer, TransformerParams
from pipeline.wrappers.graphed_stack import GraphedStack

PARAMS = TransformerParams(
    in_channels=16,
    patch_size=2,
    caption_dim=192,
    dim=384,
    num_heads=3,
    num_layers=4,
    num_refiner_layers=2,
    norm_eps=1e-5,
    rope_theta=256.0,
    rope_axes=(32, 48, 48),
    time_scale=1000.0,
)
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def randomized(module: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        else:
            nn.init.normal_(weight, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    return module.to(CUDA).eval()


def transformers() -> tuple[Transformer, Transformer]:
    exact = randomized(Transformer(PARAMS))
    return exact, copy.deepcopy(exact).bfloat16()


def evaluate(model: Transformer, captions: list[int], height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    features = [torch.randn(tokens, PARAMS.caption_dim, generator=generator).to(CUDA) for tokens in captions]
    latents = torch.randn(len(captions), 16, height, width, generator=generator).to(CUDA)
    conditioning = model.prepare(features, height, width)
    return model(latents, torch.tensor([0.3], device=CUDA), conditioning)


SHAPES = [
    ([20], 16, 16),
    ([33], 18, 46),  # image tokens and caption tokens that need pads
    ([20, 90], 32, 20),  # captions of different lengths: the mask of guidance
    ([64, 64], 32, 20),
    ([20], 90, 106),  # too many tokens for a graph
]


@pytest.mark.parametrize(("captions", "height", "width"), SHAPES)
def test_the_fused_transformer_is_as_exact_as_the_plain_one(captions: list[int], height: int, width: int) -> None:
    from pipeline.cuda.transformer import FusedTransformer

    exact, plain = transformers()
    expected = evaluate(exact, captions, height, width)
    plain_error = error(evaluate(plain, captions, height, width), expected)
    fused = FusedTransformer(plain, CUDA, None)
    for _ in range(2):  # recorded, then replayed
        assert error(evaluate(fused, captions, height, width), expected) <= 1.1 * plain_error


@pytest.mark.parametrize(("captions", "height", "width"), SHAPES)
def test_fp8_stays_near(captions: list[int], height: int, width: int) -> None:
    from pipeline.cuda.transformer import FusedTransformer

    exact, plain = transformers()
    expected = evaluate(exact, captions, height, width)
    fused = FusedTransformer(plain, CUDA, FP8)
    assert any(isinstance(module, Fp8Matrix) for module in fused.modules())
    for _ in range(2):  # recorded, then replayed
        assert error(evaluate(fused, captions, height, width), expected) < 0.12


def test_other_values_in_the_same_shapes_are_not_those_of_the_recording() -> None:
    from pipeline.cuda.transformer import FusedTransformer

    exact, plain = transformers()
    fused = FusedTransformer(plain, CUDA, None)
    evaluate(fused, [20], 16, 16)
    torch.manual_seed(11)
    caption, latents = torch.randn(20, PARAMS.caption_dim, device=CUDA), torch.randn(1, 16, 16, 16, device=CUDA)
    time = torch.tensor([0.8], device=CUDA)
    found = fused(latents, time, fused.prepare([caption], 16, 16))
    assert error(found, exact(latents, time, exact.prepare([caption], 16, 16))) < 0.03


@pytest.mark.parametrize("number_format", [None, FP8])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (90, 106)])  # with and without a CUDA graph
def test_the_stack_can_be_cut_anywhere(number_format: NumberFormat | None, height: int, width: int) -> None:
    from pipeline.cuda.transformer import FusedTransformer

    model = FusedTransformer(transformers()[1], CUDA, number_format)
    conditioning = model.prepare([torch.randn(20, PARAMS.caption_dim, device=CUDA)], height, width)
    latents, timestep = torch.randn(1, 16, height, width, device=CUDA), torch.tensor([0.3], device=CUDA)
    x, time = model.embed(latents, timestep, conditioning.caption, conditioning.image_rope)
    for stack in (model.stack, GraphedStack(model.stack)):
        whole = stack.run(x.clone(), time, conditioning, 0, PARAMS.num_layers)
        for cut in range(PARAMS.num_layers + 1):
            first = stack.run(x.clone(), time, conditioning, 0, cut)
            assert torch.equal(stack.run(first, time, conditioning, cut, PARAMS.num_layers), whole)


@pytest.mark.parametrize("number_format", [None, FP8])
def test_each_matrix_of_the_checkpoint_has_a_place_for_a_side_path(number_format: NumberFormat | None) -> None:
    from pipeline.cuda.transformer import FusedTransformer

    exact, plain = transformers()
    fused = FusedTransformer(plain, CUDA, number_format)
    assert places(fused).keys() == places(exact).keys()

    def outputs(model: Transformer) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def keep(name: str, part: slice, _module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[name] = output[..., part].flatten(0, -2).clone()  # it is rotated in place behind the hook

        for name, place in places(model).items():
            if name.startswith("layers."):
                place.module.register_forward_hook(partial(keep, name, place.outputs))
        evaluate(model, [20], 90, 106)
        return found

    expected = outputs(exact)
    assert len(expected) == 4 * 8  # matrices of a layer, its modulation among them
    for name, output in outputs(fused).items():
        assert error(output, expected[name]) < 0.15, name


@pytest.mark.parametrize("rows", [E4M3, RowFormat(torch.int8, 127.0)])
def test_rows_are_quantised_as_their_format_does(rows: RowFormat) -> None:
    from pipeline.cuda.kernels.rows import quantize_rows

    x = torch.randn(40, 384, device=CUDA).bfloat16() * torch.logspace(-6, 3, 40, device=CUDA)[:, None].bfloat16()
    found, expected = quantize_rows(x, rows), rows.quantize(x)
    assert found.values.dtype == rows.dtype
    torch.testing.assert_close(found.scales, expected.scales)
    assert (found.values.float() != expected.values.float()).float().mean() < 0.01  # ties fall either way
    torch.testing.assert_close(found.dequantize(torch.float32), expected.dequantize(torch.float32), rtol=0.2, atol=0)


@pytest.mark.parametrize("channels", [(128, 256, 512, 512), (32, 64, 96, 96)])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (34, 22), (2, 50)])
def test_the_fused_decoder_is_as_exact_as_the_plain_one(channels: tuple[int, ...], height: int, width: int) -> None:
    from pipeline.cuda.vae import FusedDecoder

    exact = randomized(Autoencoder(AutoencoderParams(3, 16, channels, 2, 16, 0.3611, 0.1159)))
    latents = torch.randn(2, 16, height, width, device=CUDA)
    expected = exact.decode(latents)
    plain = copy.deepcopy(exact).bfloat16()
    plain_error = error(plain.decode(latents), expected)
    plain.decoder = FusedDecoder(plain.decoder)
    assert error(plain.decode(latents), expected) <= 1.1 * plain_error


@pytest.mark.parametrize("quantize", [False, True])
def test_text_features_are_those_of_the_plain_encoder(quantize: bool) -> None:
    from pipeline.cuda.text_encoder import fuse

    def encoder(device: torch.device, dtype: torch.dtype) -> TextEncoder:
        checkpoint = Checkpoint(TINY_CHECKPOINT)
        return TextEncoder(checkpoint.text_encoder.load(device, dtype), checkpoint.tokenizer)

    exact, plain = encoder(CUDA, torch.float32), encoder(CUDA, torch.bfloat16)
    fused = encoder(torch.device("cpu"), torch.bfloat16)
    fuse(fused, CUDA, FP8 if quantize else None)
    assert any(isinstance(module, Fp8Matrix) for module in fused.model.modules()) == quantize
    assert places(fused.model).keys() == places(exact.model).keys()
    for length in (31, 32, 33, 512, 20):  # 20 replays what 31 recorded
        tokens = torch.randint(0, 1024, (1, length), device=CUDA)
        expected = exact.run(tokens)
        bound = 0.15 if quantize else 1.2 * error(plain.run(tokens), expected)
        assert error(fused.run(tokens), expected) <= bound


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("quantization", [None, "fp8"])
def test_every_gpu_draws_the_same_picture(quantization: str | None) -> None:
    pictures = []
    for device in ("cuda:0", "cuda:1"):
        pipe = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device=device, quantization=quantization)
        pictures.append(pipe("a red circle on a blue background", height=128, width=128, seed=3))
    assert torch.equal(*pictures)


PROMPTS = ("a red circle on a blue background", "left of a green square is a yellow star, white background")


def test_the_bundled_model_draws_the_pictures_of_the_plain_path() -> None:
    exact = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", dtype=torch.float32)
    plain = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cpu", dtype=torch.bfloat16)
    fused = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", dtype=torch.bfloat16)
    fp8 = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", quantization="fp8")
    decibels = []
    for prompt, seed in itertools.product(PROMPTS, range(6)):  # rounding decides some decibels of one picture
        expected = exact(prompt, height=128, width=128, seed=seed)
        found = [pipe(prompt, height=128, width=128, seed=seed) for pipe in (plain, fused, fp8)]
        decibels.append([psnr(picture, expected) for picture in found])
    of_plain, of_fused, of_fp8 = map(statistics.median, zip(*decibels, strict=True))
    print("PSNR of plain bfloat16, fused bfloat16, fp8:", of_plain, of_fused, of_fp8, decibels)
    assert of_fused > of_plain - 2
    assert of_fp8 > 20


def psnr(found: Tensor, expected: Tensor) -> float:
    return float(20 * torch.log10(255 / (found.float() - expected.float()).square().mean().sqrt()))


@pytest.mark.parametrize("quantization", [None, "fp8"])
def test_each_image_is_the_one_that_its_seed_gives_alone(quantization: str | None) -> None:
    pipe = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", quantization=quantization)
    together = pipe("a red circle on a blue background", height=128, width=128, seed=3, num_images=3)
    for i in range(3):
        alone = pipe("a red circle on a blue background", height=128, width=128, seed=3 + i)
        assert torch.equal(together[i], alone[0])
