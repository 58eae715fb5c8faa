"""Every size in conf/model is the architecture of its name, and can be built without its weights."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from model_details import details, details_of

from lightning_rlhf.models.rebuilding import empty_net
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource

CONF = Path(__file__).parents[3] / "conf" / "model"
OPTIONS = sorted(
    path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml") if path.stem != "base"
)
# Parameters in units of a billion, from the papers and from what the publishers count in their weights.
PUBLISHED = [
    # Radford et al. (2019) as counted in OpenAI's weights; their paper says 117M, 345M, 762M and 1542M.
    ("gpt2", {"small": 0.12444, "medium": 0.35482, "large": 0.77403, "xl": 1.5576}),
    # ColossalAI's benchmark_gpt_dummy.py (2023) prints them for each run; 175b: 12 L D^2 + 13 L D + (V + P) D
    # = 12 x 96 x 12288^2 + 13 x 96 x 12288 + (50257 + 2048) x 12288.
    ("gpt2", {"2b": 2.12, "4b": 4.20, "6b": 6.25, "8b": 8.27, "10b": 10.28, "12b": 12.29, "15b": 15.92, "18b": 18.33}),
    ("gpt2", {"20b": 20.56, "24b": 24.58, "28b": 28.61, "32b": 32.64, "36b": 36.66, "40b": 40.69, "175b": 174.6}),
    # Wang and Komatsuzaki (2021), mesh-transformer-jax.
    ("gptj", {"6b": 6.053}),
    # Black et al. (2022), table 1.
    ("gpt_neox", {"20b": 20.5546}),
    # Zhang et al. (2022), table 1, with the digits that the published weights have.
    ("opt", {"125m": 0.1252, "350m": 0.3312, "1.3b": 1.3158, "2.7b": 2.6516, "6.7b": 6.6585, "13b": 12.853}),
    ("opt", {"30b": 29.974, "66b": 65.72, "175b": 174.6}),
    # ColossalAI's OPT benchmark (2023): 12 L D^2 + 13 L D + (50272 + 2050) D.
    # 700m: 707.79M + 0.60M + 66.97M; 3.5b: 3623.9M + 1.3M + 160.7M; 5.5b: 5662.3M + 1.6M + 200.9M;
    # 10b: 10066.3M + 2.1M + 267.9M
    ("opt", {"700m": 0.7754, "3.5b": 3.7859, "5.5b": 5.8648, "10b": 10.3363}),
    # Le Scao et al. (2022), table 3, and the model cards.
    ("bloom", {"560m": 0.5592, "1b1": 1.0653, "1b7": 1.7224, "3b": 3.0026, "7b1": 7.0690, "176b": 176.247}),
    # Touvron et al. (2023), table 2 has 6.7, 13.0, 32.5, 65.2; the digits are those of Meta's weights.
    ("llama", {"7b": 6.74, "13b": 13.02, "30b": 32.53, "33b": 32.53, "65b": 65.29}),
    ("llama2", {"7b": 6.74, "13b": 13.02, "70b": 68.98}),
    # The model cards on the hub count 8.03B, 70.6B, and for Llama 3.2 1.23B and 3.21B.
    ("llama3", {"8b": 8.03, "70b": 70.6, "1b": 1.236, "3b": 3.213}),
    # Qwen2.5's model cards: 0.49, 1.54, 3.09, 7.61, 14.7, 32.5, 72.7; the hub counts 14.8 and 32.8 in the weights.
    ("qwen2.5", {"0.5b": 0.494, "1.5b": 1.54, "3b": 3.09, "7b": 7.61, "14b": 14.77, "32b": 32.76, "72b": 72.7}),
    # Qwen3's model cards: 0.6, 1.7, 4.0, 8.2, 14.8, 32.8; more digits from the weights, output tied up to 4b.
    ("qwen3", {"0.6b": 0.596, "1.7b": 1.7206, "4b": 4.022, "8b": 8.19, "14b": 14.77, "32b": 32.76}),
    # The hub's count for version 0.3; Jiang et al. (2023) have 7.24 with a smaller vocabulary.
    ("mistral", {"7b": 7.248}),
    # Gemma team (2024), table 2: 2,506,434,560 and 8,538,074,112 with rounded vocabularies.
    ("gemma", {"2b": 2.506, "7b": 8.538}),
    # The hub's count.
    ("gemma2", {"2b": 2.614, "9b": 9.242, "27b": 27.227}),
    # 268M = 168M of embeddings + 100M (Google's announcement); 1b: 302M + 698M (Gemma 3 report, table 1).
    ("gemma3", {"270m": 0.268, "1b": 1.0}),
    # The hub's count.
    ("smollm2", {"135m": 0.1345, "360m": 0.3618, "1.7b": 1.711}),
]
EXPECTED = {f"{family}/{size}": count for family, sizes in PUBLISHED for size, count in sizes.items()}
OURS = ["demo", "gpt2/bench_tiny", "randomwalks", "tiny"]


def source(option: str, *overrides: str) -> ModelSource:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return instantiate(compose("train", [f"model={option}", "model.pretrained=null", *overrides]).model)


def test_every_option_has_a_published_number_of_parameters() -> None:
    assert sorted([*EXPECTED, *OURS]) == OPTIONS


@pytest.mark.parametrize("option", OPTIONS)
def test_every_model_has_the_published_size_and_a_scalar_form(option: str) -> None:
    model = source(option)
    net, scalar = empty_net(model, scalar=False), empty_net(model, scalar=True)
    count = sum(parameter.numel() for parameter in net.parameters()) / 1e9
    if option in EXPECTED:
        assert abs(count / EXPECTED[option] - 1) < 0.005
        # Weights of large models are held in 16 bits.
        assert model.dtype == ("bfloat16" if count > 6 else "float32")
    assert net.dtype == model.torch_dtype
    assert isinstance(scalar, ScalarModel)
    assert scalar.head.weight.shape == (1, net.get_input_embeddings().embedding_dim)
    stated = re.search(r"([\d.]+)( million|[MB]) parameters", (CONF / f"{option}.yaml").read_text())
    assert stated or option == "tiny"
    if stated:
        decimals = len(stated[1].partition(".")[2])
        assert f"{count * (1 if stated[2] == 'B' else 1000):.{decimals}f}" == stated[1]


@pytest.mark.parametrize("option", EXPECTED)
def test_every_model_has_the_published_details(option: str) -> None:
    expected = details(option)
    assert details_of(source(option).hf_config(), set(expected)) == expected


def test_30b_is_another_name_for_33b() -> None:
    assert source("llama/30b") == source("llama/33b")


def test_pretrained_weights_are_those_of_the_size() -> None:
    for option in EXPECTED:
        name = re.search(r"^pretrained: (.+)$", (CONF / f"{option}.yaml").read_text(), re.MULTILINE)
        family, size = option.split("/")
        # These models have other names on the hub, or names without a size.
        size = {"llama/33b": "30b", "bloom/176b": "bloom", "gpt2/small": "gpt2"}.get(option, size)
        if name:
            assert re.search(rf"(^|[-/]){re.escape(size)}(-|$)", name[1].lower()), option
            assert family[:3] in name[1].lower()
