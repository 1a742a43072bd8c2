import itertools

import pytest

from vqscale.costing.counts import parameter_groups, parameters, parameters_non_embedding
from vqscale.costing.presets import PRESETS, fields_of, fields_of_others, resolve
from vqscale.errors import StudyError
from vqscale.models import build

HEADS = {
    "transformer": [None],
    "gla": [None],
    "transformer_full": ["shga", "mqa", "mha"],
    "transformer_vq": ["shga", "mqa", "mha"],
    "longvq": [None],
    "mega": [None],
}
CASES = [(arch, head, preset) for arch, heads in HEADS.items() for head in heads for preset in PRESETS]


def config_of(arch, head, preset, **overrides):
    return resolve(arch, preset, 259, overrides if head is None else overrides | {"head": head})


@pytest.mark.parametrize(("arch", "head", "preset"), CASES)
def test_preset_matches_the_gated_vq_model_within_three_percent(arch, head, preset):
    config, reference = config_of(arch, head, preset), config_of("transformer_vq", "shga", preset)
    assert parameters_non_embedding(config) == pytest.approx(parameters_non_embedding(reference), rel=0.03)


@pytest.mark.parametrize("extras", [{}, {"tie_embeddings": True, "absolute_positions": True}])
@pytest.mark.parametrize(("arch", "head", "preset"), CASES)
def test_parameter_count_equals_the_module(arch, head, preset, extras):
    config = config_of(arch, head, preset, **extras)
    model = build(config, device="meta", seed=None)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    outside = sum(sizes[name] for name in sizes if name.startswith(("embed.", "head.", "positions.")))
    assert parameters(config) == sum(sizes.values())
    assert parameters_non_embedding(config) == sum(sizes.values()) - outside
    codebooks = sum(buffer.numel() for name, buffer in model.state_dict().items() if name not in sizes)
    assert parameter_groups(config)["codebook"] == codebooks


def test_presets_grow_from_thirty_thousand_by_at_most_three():
    sizes = [parameters_non_embedding(config_of("transformer_vq", "shga", preset)) for preset in PRESETS]
    assert 25_000 < sizes[0] < 35_000
    assert all(1.5 < larger / smaller < 3.0 for smaller, larger in itertools.pairwise(sizes))


@pytest.mark.parametrize(
    ("preset", "vocabulary", "tied", "expected"), [("190m", 259, False, 187.7e6), ("1.3b", 32000, True, 1.315e9)]
)
def test_paper_presets_have_the_reference_codes_size(preset, vocabulary, tied, expected):
    """The reference counts embeddings and the codebooks' sums and counts too; figures are rounded to four digits."""
    config = resolve("transformer_vq", preset, vocabulary, {"tie_embeddings": tied})
    assert parameters(config) + parameter_groups(config)["codebook"] == pytest.approx(expected, rel=5e-4)


def test_paper_preset_with_multi_head_attention_has_the_papers_feed_forward():
    assert config_of("transformer_vq", "mha", "190m").d_ff == 4 * 768


def test_resolve_derives_the_rest_from_a_replaced_width():
    config = config_of("transformer_vq", "shga", "pico", d_model=64)
    assert config.d_value == 128
    config = config_of("transformer_vq", "mha", "pico", d_model=64, d_ff=100)
    assert (config.n_head, config.d_ff) == (4, 100)


@pytest.mark.parametrize(
    ("arch", "preset", "overrides", "words"),
    [
        ("lstm", "pico", {}, ["model.arch", "'lstm'", "transformer_vq, transformer_full, transformer"]),
        ("transformer", "huge", {}, ["model.preset", "'huge'", "pico, nano", "1.3b"]),
        ("transformer", "pico", {"d_modle": 3}, ["model.d_modle", "d_model"]),
        ("transformer", "pico", {"codebook_size": 3}, ["model.codebook_size", "transformer has no such setting"]),
        ("transformer_vq", "pico", {"codebook_size": 0}, ["model.codebook_size", "0", "positive"]),
        ("transformer_vq", "pico", {"codebook_size": "many"}, ["model.codebook_size", "'many'"]),
        ("transformer_vq", "pico", {"codebook_size": True}, ["model.codebook_size", "True"]),
        ("transformer_vq", "pico", {"head": "gqa"}, ["model.head", "'gqa'", "shga, mqa, mha"]),
        ("transformer_vq", "pico", {"head": "mha", "d_key": 24}, ["model.d_key", "24", "divisor"]),
        ("transformer_vq", "pico", {"d_ff": 24}, ["d_ff", "shga"]),
        ("transformer_vq", "pico", {"dropout_layer": 1.5}, ["model.dropout_layer", "1.5"]),
        ("transformer_vq", "pico", {"vocab_size": 5}, ["model.vocab_size"]),
    ],
)
def test_resolve_refuses_what_does_not_fit(arch, preset, overrides, words):
    with pytest.raises(StudyError) as error:
        resolve(arch, preset, 259, overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_fields_of_leave_out_what_an_architecture_does_not_have():
    assert "codebook_size" in fields_of("transformer_vq")
    assert fields_of("transformer_full") >= {"head", "dropout_sinusoid"}
    assert not fields_of("transformer") & {"head", "dropout_sinusoid", "codebook_size", "arch", "vocab_size"}


CLASSIFIER = {"causal": False, "classes": 10, "pooling": "mean"}


@pytest.mark.parametrize("settings", [{}, {"norm": "batch"}, {"structured_memory": "s4d"}, {"global_memory": False}])
@pytest.mark.parametrize("preset", ["pico", "mini", "d56x3"])
def test_preset_of_a_hybrid_classifier_matches_as_well_and_its_count_equals_the_module(preset, settings):
    config = resolve("longvq", preset, 259, settings, CLASSIFIER)
    model = build(config, device="meta", seed=None)
    assert parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    reference = resolve("transformer_vq", preset, 259, {})
    assert parameters_non_embedding(config) == pytest.approx(parameters_non_embedding(reference), rel=0.03)
    assert resolve("longvq", preset, 259, settings | {"d_ff": 8}, CLASSIFIER).d_ff == 8


def test_fields_of_others_leave_aside_what_a_setting_takes_away():
    settings = {"global_memory": False, "structured_memory": "none", "codebook_size": 8, "state_dim": 4}
    elsewhere = fields_of_others("longvq", settings)
    assert elsewhere >= {"codebook_size", "commit_weight", "state_dim", "head", "window"}
    assert not elsewhere & {"block_length", "global_memory", "norm"}
    assert fields_of_others("transformer_vq", settings) >= {"state_dim", "global_memory"}
    assert "codebook_size" not in fields_of_others("transformer_vq", settings)
