"""Adapters in PEFT's layout: against transformers' models with the products added by hand, and against PEFT itself."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlx.adapters.lora import LoraConfig
from rlx.errors import CheckpointError
from rlx.models.adapters import PREFIX, fold, from_peft, load_adapter_weights, to_peft
from rlx.models.folder import config_of, load_weights, read_tensors, weights_of
from rlx.models.hybrid import HybridConfig
from rlx.nn.lora import attached, folded_tensors
from rlx.runs.model_directory import save_adapter, save_model_directory
from tests.models.foreign import a_model

ROWS = 60
TOKENS = torch.randint(0, ROWS, (2, 13), generator=torch.Generator().manual_seed(0))
KINDS = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
}
ROUTED = {
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 20, "num_experts": 5,
                  "num_experts_per_tok": 3, "norm_topk_prob": False},
}  # fmt: skip
ROUTED_TARGETS = {"all": ["all"], "experts": ["experts"], "gate_up": ["gate_up"], "down": ["down"], "k": ["k"],
                  "attention": ["q", "k", "v", "out"], "q and experts": ["q", "experts"]}  # fmt: skip
STACKS = {"gate_up": "gate_up_proj", "down": "down_proj"}
TARGETS = {"all": ["all"], "q and v": ["q", "v"], "k": ["k"], "out, gate, down": ["out", "gate", "down"], "up": ["up"]}
MODULES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.o_proj",
           "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}  # fmt: skip
both = pytest.mark.parametrize("kind", KINDS)
routed = pytest.mark.parametrize("kind", ROUTED)
routed_subsets = pytest.mark.parametrize("targets", ROUTED_TARGETS.values(), ids=ROUTED_TARGETS.keys())
subsets = pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())

of_peft = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
"""PEFT asks transformers in a way that transformers gives up."""


def pair(kind, targets=None, **fields):
    """transformers' model and ours with the same weights, ours with an adapter whose B is not 0."""
    theirs = a_model(kind, vocab_size=ROWS, **{**KINDS, **ROUTED}[kind])
    description = theirs.config.to_dict()
    config, vocab_size = config_of(description, "theirs")
    ours = config.build(vocab_size)
    load_weights(ours, read_tensors(description, config, _saved(theirs), "theirs"), "theirs")
    if targets is not None:
        torch.manual_seed(3)
        LoraConfig(targets=targets, **{"rank": 3, "alpha": 5, **fields}).attach(ours)
        for each in attached(ours):
            torch.nn.init.normal_(each.adapter.factors()[1], std=0.2)
    return theirs, config, ours


def _saved(theirs):
    tied = theirs.config.tie_word_embeddings
    with tempfile.TemporaryDirectory() as folder:  # not the names of the model in memory, which of experts are others
        theirs.save_pretrained(folder)
        found = load_file(Path(folder) / "model.safetensors")
    return {name: tensor for name, tensor in found.items() if not (tied and name == "lm_head.weight")}


def added(theirs, tensors, scale):
    """Makes the modules that tensors name add scale B A x; returns the factors, which have gradients."""
    factors = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    for name in {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}:
        a, b = (factors[f"{PREFIX}{name}.lora_{which}.weight"] for which in "AB")
        theirs.get_submodule(name).register_forward_hook(
            lambda module, given, out, a=a, b=b: out + scale * (given[0] @ a.T @ b.T)
        )
    return factors


def gradients(model):
    """Of what is trained, by its tensors' ids."""
    return {id(parameter): parameter.grad for parameter in model.parameters() if parameter.requires_grad}


@both
@subsets
def test_logits_and_gradients_are_those_of_products_added_in_transformers(kind, targets):
    theirs, config, ours = pair(kind, targets)
    _, tensors = to_peft(ours, config)
    factors = added(theirs, tensors, 5 / 3)
    found, expected = ours.logits(ours(TOKENS)[0]), theirs(TOKENS).logits
    assert (found - expected).abs().max() < 1e-4 and found.std() > 0.5
    for logits in (found, expected):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS.flatten()).backward()
    slopes = gradients(ours)
    mine = {name: slopes[id(tensor)] for name, tensor in tensors.items()}
    assert len(mine) == len(slopes)
    for name, slope in mine.items():
        torch.testing.assert_close(slope, factors[name].grad, atol=1e-5, rtol=1e-3, msg=name)


@both
@subsets
def test_written_and_read_again(kind, targets):
    _, config, ours = pair(kind, targets)
    described, tensors = to_peft(ours, config)
    wanted = list(MODULES) if targets == ["all"] else targets
    assert sorted(described["target_modules"]) == sorted(MODULES[part].split(".")[1] for part in wanted)
    assert len(tensors) == 2 * 3 * len(wanted)
    layer = f"{PREFIX}model.layers.2.{MODULES[wanted[0]]}"
    assert tensors[f"{layer}.lora_A.weight"].shape[0] == tensors[f"{layer}.lora_B.weight"].shape[1] == 3
    products = from_peft(json.loads(json.dumps(described)), tensors, config, ROWS, "here")
    weights = {name: tensor.clone() for name, tensor in weights_of(ours).items()}
    fold(weights, products)
    expected = folded_tensors(ours)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
    _, _, other = pair(kind, targets)
    for each in attached(other):
        torch.nn.init.zeros_(each.adapter.factors()[0])
    load_adapter_weights(other, products, "here")
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), ours.state_dict().values(), strict=True))


def test_a_model_without_a_layout_has_names_of_its_own():
    config = HybridConfig(d_model=24, n_layers=2, n_heads=4, layers=["attention.local", "iha"], window=4)
    model = config.build(ROWS)
    LoraConfig(targets=["q", "v", "out"], rank=2).attach(model)
    for each in attached(model):
        torch.nn.init.normal_(each.adapter.factors()[1])
    described, tensors = to_peft(model, config)
    assert f"{PREFIX}blocks.1.mixer.qkv.v.lora_B.weight" in tensors and len(tensors) == 2 * 2 * 3
    weights = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    fold(weights, from_peft(described, tensors, config, ROWS, "here"))
    expected = folded_tensors(model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def test_adapters_of_several_ranks_and_rslora_are_read():
    _, config, ours = pair("llama", ["q"], rslora=True)
    described, tensors = to_peft(ours, config)
    name = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_"
    a, b = tensors[f"{name}A.weight"][:2].detach(), tensors[f"{name}B.weight"][:, :2].detach()
    tensors = {**tensors, f"{name}A.weight": a, f"{name}B.weight": b}
    first, second, *_ = from_peft(described, tensors, config, ROWS, "here")
    assert first.scale == 5 / 2**0.5 and second.scale == 5 / 3**0.5
    weights = {key: tensor.clone() for key, tensor in weights_of(ours).items()}
    fold(weights, [first])
    moved = weights["blocks.0.mixer.qkv.weight"] - weights_of(ours)["blocks.0.mixer.qkv.weight"]
    assert torch.allclose(moved[:48], 5 / 2**0.5 * b @ a, atol=1e-6) and not moved[48:].any()


def _wrong(**changes):
    return lambda described, tensors: described.update(changes)


def _without(described, tensors):
    del tensors[next(iter(tensors))]


def _renamed(described, tensors):
    tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = tensors.popitem()[1]


def _narrow(described, tensors):
    name = next(iter(tensors))
    tensors[name] = tensors[name][:, :-1]


WRONG = {
    "another kind": (_wrong(peft_type="LOHA"), "peft_type=LOHA"),
    "dora": (_wrong(use_dora=True), "use_dora"),
    "bias": (_wrong(bias="all"), "bias"),
    "whole modules": (_wrong(modules_to_save=["lm_head"]), "modules_to_save"),
    "no alpha": (_wrong(lora_alpha=None), "lora_alpha"),
    "half of a pair": (_without, "only one of lora_A and lora_B"),
    "of another model": (_renamed, "only one of|layers.9"),
    "another width": (_narrow, "fit no"),
}


@pytest.mark.parametrize("spoil, expected", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_read_is_one_line(spoil, expected):
    _, config, ours = pair("llama", ["q", "v"])
    described, tensors = to_peft(ours, config)
    spoil(described, tensors)
    with pytest.raises(CheckpointError, match=expected) as caught:
        from_peft(described, tensors, config, ROWS, "here")
    assert str(caught.value).startswith("here: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{"targets": ["q", "k"]}, {"rank": 2}, {"alpha": 6}], ids=str)
def test_an_adapter_goes_into_its_equal_alone(other):
    _, config, ours = pair("llama", ["q", "v"])
    described, tensors = to_peft(ours, config)
    _, _, changed = pair("llama", **{"targets": ["q", "v"], **other})
    before = {name: tensor.clone() for name, tensor in changed.state_dict().items()}
    with pytest.raises(CheckpointError, match="here: "):
        load_adapter_weights(changed, from_peft(described, tensors, config, ROWS, "here"), "here")
    assert all(torch.equal(tensor, before[name]) for name, tensor in changed.state_dict().items())


@of_peft
@both
@subsets
def test_peft_loads_ours(kind, targets, tmp_path):
    import peft

    theirs, config, ours = pair(kind, targets)
    described, tensors = to_peft(ours, config)
    save_model_directory(tmp_path, weights_of(ours), {}, None)  # the base that a checkpoint has beside its adapter
    save_adapter(tmp_path, tensors, described)
    assert peft.PeftConfig.from_pretrained(tmp_path).peft_type == "LORA"
    model = peft.PeftModel.from_pretrained(theirs, tmp_path, is_trainable=True).eval()
    found, expected = ours.logits(ours(TOKENS)[0]), model(TOKENS).logits
    assert (found - expected).abs().max() < 1e-4
    for logits in (found, expected):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS.flatten()).backward()
    slopes = gradients(ours)
    theirs_by_name = {name.replace(".default.", "."): p for name, p in model.named_parameters() if p.requires_grad}
    assert theirs_by_name.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(slopes[id(tensor)], theirs_by_name[name].grad, atol=1e-5, rtol=1e-3, msg=name)


@of_peft
@both
@subsets
def test_ours_reads_pefts(kind, targets, tmp_path):
    import peft

    theirs, config, ours = pair(kind)
    wanted = list(MODULES) if targets == ["all"] else targets
    modules = [MODULES[part].split(".")[1] for part in wanted]
    settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=modules, init_lora_weights=False)
    model = peft.get_peft_model(theirs, settings).eval()
    model.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    weights = {name: tensor.clone() for name, tensor in weights_of(ours).items()}
    fold(weights, from_peft(described, tensors, config, ROWS, "theirs"))
    load_weights(ours, weights, "theirs")
    assert (ours.logits(ours(TOKENS)[0]) - model(TOKENS).logits).abs().max() < 1e-4


def _parts(targets):
    """What of an architecture with experts the targets are, as PEFT is asked for it."""
    wanted = {"all": ["q", "k", "v", "out", *STACKS], "experts": list(STACKS)}
    parts = [part for target in targets for part in wanted.get(target, [target])]
    modules = [MODULES[part].split(".")[1] for part in parts if part not in STACKS]
    return modules, [f"mlp.experts.{STACKS[part]}" for part in parts if part in STACKS]


@of_peft
@routed
@routed_subsets
def test_peft_loads_our_experts(kind, targets, tmp_path):
    import peft

    theirs, config, ours = pair(kind, targets)
    described, tensors = to_peft(ours, config)
    save_model_directory(tmp_path, weights_of(ours), {}, None)
    save_adapter(tmp_path, tensors, described)
    plain = theirs(TOKENS).logits.detach()
    model = peft.PeftModel.from_pretrained(theirs, tmp_path, is_trainable=True).eval()
    found, expected = ours.logits(ours(TOKENS)[0]), model(TOKENS).logits
    assert (found - expected).abs().max() < 1e-4 and (found - plain).abs().max() > 0.1
    for logits in (found, expected):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS.flatten()).backward()
    theirs_by_name = {name.replace(".default.", "."): p for name, p in model.named_parameters() if p.requires_grad}
    assert {name: p.shape for name, p in theirs_by_name.items()} == {name: t.shape for name, t in tensors.items()}
    slopes = {name: p.grad for name, p in theirs_by_name.items() if p.grad is not None}
    products = from_peft(described, slopes, config, ROWS, "theirs")  # gradients in our shapes
    read = {(each.tensor, each.rows.start): each for each in products}
    for each in attached(ours):
        their, (a, b) = read.pop((each.tensor, each.rows.start)), each.adapter.factors()
        torch.testing.assert_close(a.grad, their.a, atol=1e-5, rtol=1e-3, msg=each.tensor)
        torch.testing.assert_close(b.grad, their.b, atol=1e-5, rtol=1e-3, msg=each.tensor)
    assert not read


@of_peft
@routed
@routed_subsets
def test_ours_reads_pefts_experts(kind, targets, tmp_path):
    import peft

    theirs, config, ours = pair(kind)
    plain = ours.logits(ours(TOKENS)[0])
    modules, parameters = _parts(targets)
    settings = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=modules, target_parameters=parameters, init_lora_weights=False
    )
    expected, weights = _read(theirs, settings, config, ours, tmp_path)
    load_weights(ours, weights, "theirs")
    found = ours.logits(ours(TOKENS)[0])
    assert (found - expected).abs().max() < 1e-4 and (found - plain).abs().max() > 0.1


@of_peft
@pytest.mark.filterwarnings("ignore:.*keys did not match any targeted module:RuntimeWarning")  # it uses them
@pytest.mark.parametrize(
    "kind, projections", [("mixtral", ["w1", "w2", "w3"]), ("qwen3_moe", ["gate_proj", "up_proj", "down_proj"])]
)
def test_ours_reads_experts_that_were_named_as_in_transformers_4(kind, projections, tmp_path):
    """PEFT makes them parameters with a rank and an alpha of their own."""
    import peft

    theirs, config, ours = pair(kind)
    settings = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", *projections], init_lora_weights=False)
    expected, weights = _read(theirs, settings, config, ours, tmp_path)
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert described["alpha_pattern"] and described["rank_pattern"]
    load_weights(ours, weights, "theirs")
    assert (ours.logits(ours(TOKENS)[0]) - expected).abs().max() < 1e-4


def _read(theirs, settings, config, ours, folder):
    """Logits of an adapter that PEFT makes and saves, and our weights with it folded in."""
    import peft

    model = peft.get_peft_model(theirs, settings).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    described = json.loads((folder / "adapter_config.json").read_text())
    weights = {name: tensor.clone() for name, tensor in weights_of(ours).items()}
    fold(weights, from_peft(described, load_file(folder / "adapter_model.safetensors"), config, ROWS, "theirs"))
    return model(TOKENS).logits.detach(), weights


@routed
@routed_subsets
def test_experts_are_written_and_read_again(kind, targets):
    _, config, ours = pair(kind, targets)
    described, tensors = to_peft(ours, config)
    modules, parameters = _parts(targets)
    assert sorted(described["target_modules"]) == sorted(modules)
    assert described.get("target_parameters", []) == [name.rpartition(".")[2] for name in parameters]
    _, _, other = pair(kind, targets)
    for each in attached(other):
        torch.nn.init.zeros_(each.adapter.factors()[0])
    load_adapter_weights(other, from_peft(json.loads(json.dumps(described)), tensors, config, ROWS, "here"), "here")
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), ours.state_dict().values(), strict=True))


@pytest.mark.parametrize("spoil, expected", [
    (_wrong(target_parameters=["down_proj"]), r"mlp.experts.down_proj has A|has no place in this model"),
    (_wrong(target_parameters=None), "experts.*has no place in this model"),
    (_narrow, r"gate_up_proj has A \(15, 47\) and B \(160, 15\), which fit no \(5, 160, 48\)"),
], ids=["of another parameter", "of none", "another width"])  # fmt: skip
def test_what_of_experts_cannot_be_read_is_one_line(spoil, expected):
    _, config, ours = pair("mixtral", ["experts"])
    described, tensors = to_peft(ours, config)
    spoil(described, tensors)
    with pytest.raises(CheckpointError, match=expected) as caught:
        from_peft(described, tensors, config, ROWS, "here")
    assert str(caught.value).startswith("here: ") and "\n" not in str(caught.value)
