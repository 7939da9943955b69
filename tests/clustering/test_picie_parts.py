"""PiCIE's network, crops and colours against recorded arrays."""

import zlib

import numpy as np
import pytest
import torch
from cluster_golden import golden, tensors

from densessl.data.transforms import FixedOrderPhotometric
from densessl.data.transforms.fixed_order import published_sigma
from densessl.errors import ConfigError
from densessl.layers.crop_flip import crop_boxes, crop_flip
from densessl.layers.photometric import SIGMA, apply_photometric
from densessl.modeling.backbone import LateralFPN, build_resnet

STAGES = ("res2", "res3", "res4", "res5")


def network(depth: int) -> LateralFPN:
    channels = 128 if depth == 18 else 256
    return LateralFPN(bottom_up=build_resnet(depth, out_features=STAGES), out_channels=channels)


def authors_name(name: str) -> str:
    """Our parameter's name in the authors' state dict: densesiam_picie notes, section 7.3."""
    if name.startswith("fpn_lateral"):
        level, leaf = name.removeprefix("fpn_lateral").split(".")
        return f"decoder.layer{6 - int(level)}.{leaf}"
    parts = name.removeprefix("bottom_up.").split(".")
    leaf = parts[-1]
    norm = parts[-2] == "norm"
    if parts[0] == "stem":
        return f"backbone.{'bn1' if norm else 'conv1'}.{leaf}"
    where = f"backbone.layer{int(parts[0][3:]) - 1}.{parts[1]}"
    if parts[2] == "shortcut":
        return f"{where}.downsample.{int(norm)}.{leaf}"
    return f"{where}.{'bn' if norm else 'conv'}{parts[2][4:]}.{leaf}"


def recorded_weights(model: LateralFPN, seed: int) -> None:
    """Fills in the reproducible weights of the recorded passes."""
    for ours, value in model.state_dict().items():
        name = authors_name(ours)
        if name.endswith("num_batches_tracked"):
            continue
        state = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
        r = state.standard_normal(value.numel()).reshape(value.shape)
        if name.endswith("running_var"):
            r = 1 + 0.5 * np.abs(r)
        elif name.endswith(("running_mean", "bias")):
            r = 0.1 * r
        elif value.ndim == 1:
            r = 1 + 0.1 * r
        elif name.startswith("decoder"):
            r = r * np.sqrt(1 / value.shape[1])
        else:
            r = r * np.sqrt(2 / (value.shape[0] * value.shape[2] * value.shape[3]))
        value.copy_(torch.from_numpy(r.astype(np.float32)))


@pytest.mark.parametrize("depth", [18, 50])
def test_recorded_passes(depth):
    arrays = golden(f"forward_r{depth}_s5")
    seed = int(arrays["hp/seed"])
    model = network(depth)
    recorded_weights(model, seed)
    images = np.random.RandomState(seed).standard_normal(arrays["hp/shape"]).astype(np.float32)
    model.eval()
    with torch.no_grad():
        output = model(torch.from_numpy(images))["p2"]
        assert output.numpy() == pytest.approx(arrays["out/eval"], rel=1e-4, abs=3e-5)
        if depth == 18:
            model.train()
            output = model(torch.from_numpy(images))["p2"]
            assert output.numpy() == pytest.approx(arrays["out/train_mode"], rel=1e-4, abs=2e-4)
            norm = model.bottom_up.stem.conv1.norm
            for name in ("mean", "var"):
                known = arrays[f"out/bn1_running_{name}_after"]
                assert getattr(norm, f"running_{name}").numpy() == pytest.approx(known, rel=1e-4, abs=1e-6)


def test_recorded_decoder():
    arrays = golden("decoder_s0")
    model = LateralFPN(bottom_up=build_resnet(18, out_features=STAGES), out_channels=12)
    for number in range(1, 5):
        lateral = getattr(model, f"fpn_lateral{6 - number}")
        for leaf in ("weight", "bias"):
            value = torch.from_numpy(arrays[f"in/state/layer{number}.{leaf}"])
            getattr(lateral, leaf).data.copy_(value)
    with torch.no_grad():
        output = model.decode(dict(zip(STAGES, tensors(arrays, *(f"in/{name}" for name in STAGES)))))
    assert output.numpy() == pytest.approx(arrays["out/p2"], rel=1e-5, abs=2e-6)


def test_sizes_and_mistakes_of_the_pyramid():
    model = network(18)
    assert sum(p.numel() for p in model.parameters()) == 11_299_904
    assert sum(p.numel() for name, p in model.named_parameters() if "lateral" in name) == 123_392
    shape = model.output_shape()["p2"]
    assert (shape.channels, shape.stride) == (128, 4)
    assert model.eval()(torch.zeros(1, 3, 37, 50))["p2"].shape == (1, 128, 10, 13)  # any size
    with pytest.raises(ConfigError, match="in_features.*returns res5"):
        LateralFPN(bottom_up=build_resnet(18))


def recorded_crops():
    arrays = golden("eqv_s0")
    scale, place, flip = tensors(arrays, "in/rscale", "in/rcrop", "in/flip_p")
    flipped = (flip < float(arrays["hp/flip_prob"])).double()
    params = torch.cat([scale[:, None], place, flipped[:, None]], dim=1)[arrays["in/indices"]]
    return arrays, params


@pytest.mark.parametrize(("kind", "tolerance"), [("image", 2e-5), ("feat", 1e-5)])
def test_recorded_crops(kind, tolerance):
    arrays, params = recorded_crops()
    maps = torch.from_numpy(arrays[f"in/{kind}"])
    maps = maps.float() / 255 if kind == "image" else maps
    boxes = crop_boxes(params, maps.shape[-1])
    assert boxes.tolist() == arrays[f"out/box_{kind}"].tolist()
    known = arrays[f"out/{kind}"]
    cut = crop_flip(maps, boxes, params[:, 3], known.shape[-1])
    assert cut.numpy() == pytest.approx(known, abs=tolerance)


def test_crops_of_image_and_map_are_aligned():
    """Coordinates as pixels: cut from the image, and from its 8 times coarser map, they are the same."""
    size, coarse = 64, 8
    centres = torch.arange(size).double() + 0.5
    image = torch.stack([centres[None].expand(size, -1), centres[:, None].expand(-1, size)])[None]
    small = torch.nn.functional.avg_pool2d(image, size // coarse)
    generator = torch.Generator().manual_seed(0)
    params = torch.rand(40, 4, generator=generator, dtype=torch.float64)
    params[:, 0] = 0.5 + 0.5 * params[:, 0]
    params[:, 3] = (params[:, 3] < 0.5).double()
    boxes = crop_boxes(params, size)
    view = crop_flip(image.expand(40, -1, -1, -1), boxes, params[:, 3], 32)
    view = torch.nn.functional.avg_pool2d(view, 4)  # 8 x 8 cells of the view cut from the image
    exact = crop_flip(small.expand(40, -1, -1, -1), boxes * coarse / size, params[:, 3], 8, within_box=False)
    published = crop_flip(small.expand(40, -1, -1, -1), crop_boxes(params, coarse), params[:, 3], 8)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # the map's own edge repeats
    assert torch.allclose(exact[inner], view[inner], atol=1e-9)
    # pixels of the image, of 8 to a cell: the authors round on both grids
    assert 1 < float((published - view)[inner].abs().mean()) < 6
    assert torch.allclose(exact.flip(3)[params[:, 3] == 1][inner], view.flip(3)[params[:, 3] == 1][inner])


def test_whole_map_is_left_as_it_is():
    maps = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    boxes = crop_boxes(torch.tensor([[1.0, 0.3, 0.9, 0.0]] * 2, dtype=torch.float64), 6)
    for within in (True, False):
        same = crop_flip(maps, boxes, torch.zeros(2), 6, within_box=within)
        assert same.numpy() == pytest.approx(maps.numpy(), abs=1e-6)
        mirrored = crop_flip(maps, boxes, torch.ones(2), 6, within_box=within)
        assert mirrored.numpy() == pytest.approx(maps.flip(3).numpy(), abs=1e-6)


def test_recorded_colours():
    arrays = golden("photometric_s0")
    names = ("brightness", "contrast", "saturation", "hue")
    coins = np.stack([arrays[f"in/p_{name}"] for name in (*names, "gray", "blur")], axis=1)
    factors = np.stack([arrays[f"in/r_{name}"] for name in names], axis=1)
    images = torch.from_numpy(arrays["in/images"]).permute(0, 3, 1, 2).float()
    for kind, gray in {"picie": 0.0, "densesiam": 0.2}.items():
        law = FixedOrderPhotometric(grayscale_prob=gray)
        params = np.stack([law.params(c, f, published_sigma(c[5])) for c, f in zip(coins, factors)])
        assert params[:, SIGMA] == pytest.approx(np.abs(arrays["out/blur_radius_signed"]), rel=1e-6)
        ours = apply_photometric(images, torch.from_numpy(params)).permute(0, 2, 3, 1).numpy()
        difference = np.abs(ours - arrays[f"out/{kind}"].astype(float))
        # Pillow truncates, and its hue, saturation and value are whole numbers; measured 1.7 and 9.7
        assert difference.mean((1, 2, 3)).max() < 1.8
        assert difference.max() < 10


def test_law_of_the_colours():
    law = FixedOrderPhotometric()
    rng = np.random.default_rng(0)
    drawn = np.stack([law.draw(rng) for _ in range(4000)])
    done = (drawn[:, 5:] >= 0).sum(1)
    assert done.max() == 4
    assert done.mean() == pytest.approx(3.2, abs=0.1)
    assert ((drawn[:, 0] >= 0.7) & (drawn[:, 0] <= 1.3)).all()
    assert (drawn[:, 0] == 1).mean() == pytest.approx(0.2, abs=0.03)
    assert np.abs(drawn[:, 3]).max() <= 0.1
    sigma = drawn[:, SIGMA][drawn[:, SIGMA] > 0]
    assert len(sigma) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sigma.max() < 1.8
    # twice the density below 0.1
    assert (sigma < 0.1).mean() == pytest.approx(0.2 / 1.9, abs=0.03)
    other = np.stack([FixedOrderPhotometric(blur_sigma=(0.5, 1.0)).draw(rng) for _ in range(200)])
    sigma = other[:, SIGMA][other[:, SIGMA] > 0]
    assert sigma.min() >= 0.5
    with pytest.raises(ConfigError, match="hue=0.7"):
        FixedOrderPhotometric(hue=0.7)
