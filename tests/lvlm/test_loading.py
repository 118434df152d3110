"""Loading: saved folders come back the same, and every wrong name gets a sentence."""

import json

import pytest
import torch

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import catalogue, memory
from svl_core.progress import Run


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("saved") / "tiny")


def test_a_folder_comes_back_the_same(tiny, saved, tiny_sample, image):
    again = svl.load(saved)
    sample = again.encode(image, tiny_sample.prompt)
    assert all(
        torch.equal(sample.inputs[name], value) for name, value in tiny_sample.inputs.items()
    )
    assert torch.equal(again.model(**sample.inputs).logits, tiny.model(**tiny_sample.inputs).logits)
    assert (
        again.layer_ids == tiny.layer_ids and again.provenance == {} and again.family is tiny.family
    )
    assert not again.model.training and not any(p.requires_grad for p in again.model.parameters())


def test_dtype(saved):
    assert svl.load(saved, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(InputError, match="float64"):
        svl.load(saved, dtype="float64")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_device(saved, device):
    with pytest.raises(InputError, match="device"):
        svl.load(saved, device=device)


@pytest.mark.parametrize(
    "name",
    [
        "no-such-owner/no-such-model",
        "no-such-model",
        "not a valid id!",
        "./no/such/folder",
        "/no/such/folder",
        "a/b/c",
        "",
    ],
)
def test_a_name_that_leads_nowhere(name):
    with pytest.raises(InputError, match="expected"):
        svl.load(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        svl.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="config"):
        svl.load(tmp_path)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(InputError, match="config"):
        svl.load(tmp_path)


def test_a_checkpoint_without_weights_or_processor(saved, tmp_path):
    import shutil

    shutil.copytree(saved, tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights"):
        svl.load(tmp_path / "a")
    shutil.copytree(saved, tmp_path / "b")
    for file in ("tokenizer.json", "processor_config.json", "tokenizer_config.json"):
        (tmp_path / "b" / file).unlink()
    with pytest.raises(InputError, match="processor"):
        svl.load(tmp_path / "b")


def test_a_text_only_model(tmp_path):
    from tiny import tiny_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=64,
        )
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="without image input"):
        svl.load(tmp_path)
    control = svl.load(tmp_path, text_only=True)
    sample = control.encode(None, "what is a cat ?")
    assert len(sample.visual) == 0 and control.num_layers == 3
    assert torch.isfinite(control.model(**sample.inputs).logits).all()


def test_demo_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "DEMO_PLACES", (tmp_path,))
    with pytest.raises(InputError, match="assets/demo_lvlm"):
        svl.load("demo")


def test_saving_never_overwrites(tiny, saved, tmp_path):
    with pytest.raises(InputError, match="empty folder"):
        tiny.save(saved)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="empty folder"):
        tiny.save(tmp_path / "file")


def test_the_record_of_a_pruned_model(tiny, tmp_path):
    view = svl.pruned_view(tiny, [0, 2, 3, 5])
    folder = view.save(tmp_path / "out")
    record = json.loads((folder / "svl_plan.json").read_text())
    assert (
        record["layer_ids"] == [0, 2, 3, 5]
        and record["dropped"] == [1, 4]
        and record["versions"]["transformers"]
    )
    assert svl.load(folder).layer_ids == (0, 2, 3, 5)


def test_progress_reaches_the_end(saved):
    told = []
    svl.load(saved, run=Run(lambda share, what: told.append((share, what))))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_model_too_large_for_the_memory(saved, monkeypatch):

    monkeypatch.setattr(memory, "free_bytes", lambda device: 100_000)
    with pytest.raises(InputError, match=r"GB of memory needed .* GB free on cpu"):
        svl.load(saved)


def test_needed_memory_by_hand():

    assert memory.needed_bytes(1000, torch.float32) == int(4 * 1000 * memory.HEADROOM)
    assert memory.needed_bytes(1000, torch.bfloat16, "4bit") == int(
        1000 * memory.BYTES["4bit"] * memory.HEADROOM
    )
    assert memory.free_bytes(torch.device("cpu")) > 0


@pytest.mark.parametrize(
    "option", [{"quantize": "3bit"}, {"quantize": "4bit"}, {"device_map": "auto"}], ids=str
)
def test_options_that_need_packages(saved, monkeypatch, option):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="expected"):
        svl.load(saved, **option)


def test_a_model_spread_by_accelerate(tiny, saved, tiny_sample, tmp_path):
    """Every second layer and the head on the disk: the same numbers at every step of the line, and
    the disk's part stays there.
    """
    pytest.importorskip("accelerate")
    parts = [
        "model.vision_tower",
        "model.multi_modal_projector",
        *(f"model.language_model.{part}" for part in ("embed_tokens", "norm", "rotary_emb")),
        *(f"model.language_model.layers.{i}" for i in range(6)),
        "lm_head",
    ]
    spread = svl.load(
        saved,
        device_map={
            part: "disk" if part[-1] in "135d" and part != "model.vision_tower" else "cpu"
            for part in parts
        },
    )
    offloaded = {
        name
        for name, parameter in spread.model.named_parameters()
        if parameter.device.type == "meta"
    }
    assert (
        any(".layers.3." in name for name in offloaded)
        and "lm_head.weight" in offloaded
        and spread.device.type == "cpu"
    )
    traces = [svl.trace(one, [tiny_sample], mlp=True) for one in (spread, tiny)]
    assert torch.equal(traces[0].samples[0].features, traces[1].samples[0].features)
    plan = svl.manual_plan([2, 4], 6)  # edits a layer on the disk, 1 and 3
    for compensation in ("none", "lstsq", "refit", "bridge"):
        pruned, expected = (
            svl.prune(one, plan, compensation, trace) for one, trace in zip((spread, tiny), traces)
        )
        assert torch.equal(
            pruned.model(**tiny_sample.inputs).logits, expected.model(**tiny_sample.inputs).logits
        ), compensation
        assert (
            svl.answer(pruned, tiny_sample, max_new_tokens=3).token_ids
            == svl.answer(expected, tiny_sample, max_new_tokens=3).token_ids
        )
        assert pruned.num_parameters == expected.num_parameters and any(
            parameter.device.type == "meta" for parameter in pruned.model.parameters()
        )
    svl.prune(spread, plan, "lstsq", traces[0]).save(tmp_path / "out")
    assert torch.equal(
        svl.load(tmp_path / "out").model(**tiny_sample.inputs).logits,
        svl.prune(tiny, plan, "lstsq", traces[1]).model(**tiny_sample.inputs).logits,
    )
    assert torch.equal(
        spread.model(**tiny_sample.inputs).logits, tiny.model(**tiny_sample.inputs).logits
    )
    assert {
        name
        for name, parameter in spread.model.named_parameters()
        if parameter.device.type == "meta"
    } == offloaded


class FakeHub:
    """Stands in for the Hub: raises what it is told to, or copies a folder into the cache with
    progress.
    """

    def __init__(self, monkeypatch, answer):
        import huggingface_hub

        self.asked = []

        def snapshot_download(
            name, *, revision=None, allow_patterns=None, ignore_patterns=None, tqdm_class=None
        ):
            self.asked.append((name, revision, tuple(allow_patterns)))
            if isinstance(answer, Exception):
                raise answer
            with tqdm_class(total=100, unit="B") as bar:
                for _ in range(10):
                    bar.update(10)
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def refusal(kind):
    import httpx
    from huggingface_hub import errors

    response = httpx.Response(403, request=httpx.Request("GET", "https://example.org"))
    return getattr(errors, kind)("no", response=response)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("GatedRepoError", "consent"),
        ("RepositoryNotFoundError", "no model"),
        ("RevisionNotFoundError", "no revision"),
    ],
)
def test_refusals_of_the_hub(monkeypatch, kind, found):
    FakeHub(monkeypatch, refusal(kind))
    with pytest.raises(InputError, match=found):
        svl.load("someone/something", revision="v9")


def test_a_hub_model_with_progress_and_cancel(monkeypatch, saved, tmp_path):
    import shutil
    import threading

    from huggingface_hub.utils import disable_progress_bars

    from svl_core.errors import Cancelled

    disable_progress_bars()  # as the command does: ours tell all the same
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(saved, tmp_path / commit)
    weights = (tmp_path / commit / "model.safetensors").rename(tmp_path / "aside")
    hub, told = FakeHub(monkeypatch, tmp_path / commit), []
    with pytest.raises(InputError, match="weights"):  # the Hub has none
        svl.load("someone/something", run=Run(lambda share, what: told.append(what)))
    assert any("downloading" in what for what in told) and hub.asked[1][1] == commit
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        svl.load("someone/something", run=Run(cancel=stop))
    weights.rename(tmp_path / commit / "model.safetensors")
    lvlm = svl.load("someone/something")
    assert lvlm.revision == commit and lvlm.name == "someone/something"


def test_an_unknown_family_is_probed(tiny, saved, monkeypatch):
    from svl_core.lvlm import families, probing

    monkeypatch.setattr(families, "FAMILIES", ())
    lvlm = svl.load(saved)
    assert lvlm.family.name == families.GENERIC.name and lvlm.encode(None, "a").length > 0
    monkeypatch.setattr(probing.families, "image_token_id", lambda config: None)
    with pytest.raises(InputError, match='probe "visual positions"'):
        svl.load(saved)


def test_a_pruning_that_differs_from_skipping_is_refused(saved, monkeypatch):
    from svl_core.lvlm import families, skeleton

    monkeypatch.setattr(families, "FAMILIES", ())
    whole = skeleton.with_layers
    monkeypatch.setattr(skeleton, "with_layers", lambda model, keep: whole(model, range(6)))
    with pytest.raises(InputError, match='probe "pruning equals skipping"'):
        svl.load(saved)


def test_eight_bits(tiny, saved, tiny_sample, tmp_path):
    """Pruning a quantised model equals skipping its layers; saving keeps the quantised weights."""
    pytest.importorskip("bitsandbytes")
    full = svl.load(saved, quantize="8bit", device="cpu")
    assert full.quantized and not tiny.quantized and full.num_parameters == tiny.num_parameters
    whole, keep = full.model(**tiny_sample.inputs).logits, (0, 2, 5)
    pruned = svl.pruned_view(full, keep).model(**tiny_sample.inputs).logits
    handles = [
        layer.register_forward_hook(lambda module, args, output: args[0])
        for i, layer in enumerate(full.layers)
        if i not in keep
    ]
    skipped = full.model(**tiny_sample.inputs, use_cache=False).logits
    for handle in handles:
        handle.remove()
    assert torch.equal(pruned, skipped) and torch.equal(
        full.model(**tiny_sample.inputs).logits, whole
    )
    trace, plan = svl.trace(full, [tiny_sample], mlp=True), svl.manual_plan([2], 6)
    for compensation in ("scp", "lstsq", "refit"):
        with pytest.raises(InputError, match="Found quantised weights"):
            svl.prune(full, plan, compensation, trace)
    assert torch.isfinite(
        svl.prune(full, plan, "bridge", trace).model(**tiny_sample.inputs).logits
    ).all()
    assert torch.equal(
        svl.load(svl.pruned_view(full, keep).save(tmp_path / "out"), device="cpu")
        .model(**tiny_sample.inputs)
        .logits,
        pruned,
    )


@pytest.mark.parametrize("name", ["Florence2Config", "T5Gemma2Config", "Pix2StructConfig"])
def test_an_encoder_decoder_is_called_one(name, tmp_path):
    import transformers

    getattr(transformers, name)().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is an encoder-decoder; expected a decoder"):
        svl.load(tmp_path)
